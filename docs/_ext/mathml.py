"""Formulas as MathML, which browsers draw by themselves: the pages need no network and no script.

Docutils turns LaTeX into MathML. What it does not know is a warning that names the place, hence an error of the build.
"""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator


def formula(node: nodes.Element, block: bool) -> str:
    """The node's LaTeX as a <math> element; as it was written where that cannot be."""
    try:
        return re.sub(r"\n\s*", "", tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return f"<code>{nodes.unescape(node.astext())}</code>"


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(formula(node, block=False))
    raise nodes.SkipNode


def display(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{formula(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
