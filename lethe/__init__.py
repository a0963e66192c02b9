"""Lethe prunes text-to-image diffusion models, heals them, and makes them forget, in one bilevel run.

`lethe.load_pipeline(folder)` gives any weights folder as a diffusers pipeline; the command `lethe` runs every stage.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lethe.erasing.pipeline import load_pipeline

__version__ = "0.2.0"  # nowhere else: pyproject.toml reads it here
__all__ = ["__version__", "load_pipeline"]


def __getattr__(name: str) -> object:
    """`load_pipeline` is imported when it is first asked for: `import lethe` stays light."""
    if name == "load_pipeline":
        from lethe.erasing.pipeline import load_pipeline

        return load_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
