"""Solvers of the bilevel problem; a module each, with `solve` and OPTIONS."""
