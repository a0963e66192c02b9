"""Two-stage erasers; a module each, with `erase` and OPTIONS."""
