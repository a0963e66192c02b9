"""How prompts speak of a concept, in the words that captions of its pictures have over their anchors.

A concept's prompt names it in one way, "by monet"; captions do in many, "in the style of claude monet". An attack that
puts something else in the concept's place has to find all of them.
"""

from collections.abc import Mapping, Sequence

from lethe.files.errors import UserError, needed
from lethe.files.io import read_json
from lethe.texts.templates import name
from lethe.texts.wording import runs, swapped, words
from lethe.training.data import INDEX, Encoded


def captions(pictures: Encoded) -> list[tuple[str, str]]:
    """Of each encoded picture its caption, and the same without the concept, or as it is if they have no anchors."""
    texts = read_json(needed(pictures.folder, "folder") / INDEX)["captions"]
    others = pictures.caption if pictures.anchor is None else pictures.anchor
    rows = zip(pictures.caption.tolist(), others.tolist(), strict=True)
    return [(texts[own], texts[other]) for own, other in rows]


def check(pictures: Encoded, pairs: Sequence[tuple[str, str]], concept: str) -> None:
    """Raises UserError if the captions of these pictures say nothing of the concept; its name is for the message."""
    if pictures.anchor is None:
        raise UserError(f"{pictures.folder} ({concept}): pictures encoded without anchors; encode them again")
    if all(own == other for own, other in pairs):
        raise UserError(
            f"{pictures.folder} ({concept}): every caption is the same without the concept; give another anchor, or "
            "captions that name the concept, and encode the pictures again"
        )


def spellings(concept: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Runs of words that speak of a concept {"prompt", "anchor"}: those of the pairs, then its own."""
    return [*runs(pairs), words(concept["prompt"], concept["anchor"]), name(concept)]


def reworded(prompt: str, concept: Mapping[str, str], spoken: Sequence[str], new: str) -> str:
    """The prompt with `new` for what it says of the concept, or, with an empty `new`, without; if it says nothing of
    it, or nothing else, the anchor with `new` behind."""
    found = swapped(prompt, spoken, new) or ""
    if not new:
        found = found.strip(" ,;")  # "a tree, style of monet" is "a tree"
    return found or f"{concept['anchor']} {new}".strip()
