"""How the pages are built: `make docs`. Markdown through MyST, formulas as MathML, nothing from the network."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from lethe import __version__  # noqa: E402  the path comes first

project = "lethe"
author = "the authors of lethe"
copyright = "Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "mathml", "links", "docstrings"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "repository": {"url": "../../../{{path}}"}}  # see _ext/links.py

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
copybutton_exclude = ".linenos, .gp"

html_theme = "furo"
html_title = f"lethe {version}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["lethe.css"]
html_copy_source = False
html_show_sphinx = False
