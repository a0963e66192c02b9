"""Lethe prunes text-to-image diffusion models, heals them, and makes them forget, in one bilevel run."""

__version__ = "0.1.0"
