"""How prompts speak of a concept, in the words that captions of its pictures have over their anchors.

A concept's prompt names it in one way, "by monet"; captions do in many, "in the style of claude monet". An attack that
puts something else in the concept's place has to find all of them.
"""

from collections.abc import Mapping, Sequence

from lethe.data import INDEX, Encoded
from lethe.errors import UserError
from lethe.io import read_json
from lethe.templates import name
from lethe.wording import runs, swapped, words


def captions(pictures: Encoded, concept: str) -> list[tuple[str, str]]:
    """Of each encoded picture its caption, and the same without the concept. Raises UserError if they were encoded
    without anchors, or no caption differs from its anchor; `concept` is its name, for messages."""
    if pictures.anchor is None:
        raise UserError(f"{pictures.folder} ({concept}): pictures encoded without anchors; encode them again")
    texts = read_json(pictures.folder / INDEX)["captions"]
    rows = zip(pictures.caption.tolist(), pictures.anchor.tolist(), strict=True)
    found = [(texts[own], texts[other]) for own, other in rows]
    if all(own == other for own, other in found):
        raise UserError(
            f"{pictures.folder} ({concept}): every caption is the same without the concept; give another anchor, or "
            "captions that name the concept, and encode the pictures again"
        )
    return found


def spellings(concept: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Runs of words that speak of a concept {"prompt", "anchor"}: those of the pairs, then its own."""
    return [*runs(pairs), words(concept["prompt"], concept["anchor"]), name(concept)]


def reworded(prompt: str, concept: Mapping[str, str], spoken: Sequence[str], new: str) -> str:
    """The prompt with `new` for what it says of the concept; if it says nothing of it, or nothing else, the anchor with
    `new` behind."""
    return swapped(prompt, spoken, new) or f"{concept['anchor']} {new}".strip()
