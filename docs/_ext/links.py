"""Links from a page to a file of the repository stand as ../reports/... in the Markdown, for who reads that.

In the built page, docs/_build/html, they lead to the same files: the scheme `repository` is made an address by
myst_url_schemes in conf.py. Pictures are left alone, Sphinx copies them.
"""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()\.\./(?=[^)]+\))")


def rewrite(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = LINK.sub(r"\1repository:", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
