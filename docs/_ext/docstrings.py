"""Docstrings for the interface's page: they are written for people, not in reStructuredText.

`code` in single quotes stays code; signs that reStructuredText would take for its own (|x|, *, a trailing _) stay as
they are.
"""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"`+([^`]+)`+")
SIGNS = re.compile(r"[|*\\]|(?<=\w)_(?=\W|$)")


def plain(text: str) -> str:
    """One line, with its code as code."""
    parts = CODE.split(text)
    return "".join(f"``{part}``" if n % 2 else SIGNS.sub(r"\\\g<0>", part) for n, part in enumerate(parts))


def rewrite(app: Sphinx, what: str, name: str, object_: object, options: object, lines: list[str]) -> None:
    lines[:] = [plain(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
