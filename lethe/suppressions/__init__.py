"""Losses of the upper level; a module each, with `loss` and OPTIONS."""
