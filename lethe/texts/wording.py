"""Captions with and without a concept: what a prompt says over its anchor, and a caption with that taken out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from lethe.files.errors import UserError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def words(prompt: str, anchor: str) -> str:
    """What the prompt says and its anchor does not: ("a painting by monet", "a painting") -> "by monet".

    Empty if it says nothing more.
    """
    old, new = prompt.split(), anchor.split()
    found = [word for start, end, _, _ in _changes(old, new) for word in old[start:end]]
    return " ".join(found)


def neutral(caption: str, prompt: str, anchor: str) -> str:
    """The caption with the concept taken out: each run of words that the prompt has over its anchor becomes the
    anchor's. A caption that has none of these runs becomes the anchor itself.
    """
    old, new, found, hit = prompt.split(), anchor.split(), caption.split(), False
    for start, end, first, last in _changes(old, new):
        run, other = old[start:end], new[first:last]
        if not run:  # words that only the anchor has: there is nothing to look for
            continue
        at = next((i for i in range(len(found) - len(run) + 1) if _same(found[i : i + len(run)], run)), None)
        if at is not None:
            found[at : at + len(run)] = other
            hit = True
    return " ".join(found) if hit and found else anchor


def runs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """What captions say over their forms without the concept, longest first: ("a boat by monet", "a boat") gives "by
    monet". Words that such a form has too are cut from a run's ends; runs of nothing else are left out.
    """
    pairs = list(dict.fromkeys(pairs))
    plain = {_bare(word) for _, other in pairs for word in other.split()}
    found = set()
    for caption, other in pairs:
        own = caption.split()
        for start, end, _, _ in _changes(own, other.split()):
            run = own[start:end]
            while run and _bare(run[0]) in plain:
                run = run[1:]
            while run and _bare(run[-1]) in plain:
                run = run[:-1]
            found.add(" ".join(run))
    return sorted(found - {""}, key=lambda run: (-len(run.split()), -len(run), run))


def swapped(text: str, runs: Sequence[str], new: str) -> str | None:
    """The text with `new` for the first of the runs that it has, as whole words, and no other of them; None if it has
    none. Case does not count."""
    hit = False
    for run in filter(None, runs):
        pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, run.split())) + r"(?!\w)", re.IGNORECASE)
        if not hit and pattern.search(text):
            text, hit = pattern.sub("\0", text, count=1), True
        text = pattern.sub("", text)
    return " ".join(text.replace("\0", new).split()) if hit else None


def token_mask(tokenizer: "CLIPTokenizer", caption: str, neutral: str, length: int) -> list[int]:
    """[length] ones at the caption's tokens that its neutral form lacks, zeros elsewhere."""
    mask = [0] * length
    for start, end, _, _ in _changes(_ids(tokenizer, caption, length), _ids(tokenizer, neutral, length)):
        mask[start:end] = [1] * (end - start)
    return mask


def end_token(tokenizer: "CLIPTokenizer", caption: str, length: int) -> int:
    """Place of the end token, which follows the caption's last word, at the latest `length` - 1."""
    return len(_ids(tokenizer, caption, length)) - 1


def _ids(tokenizer: "CLIPTokenizer", text: str, length: int) -> list[int]:
    """Start, words, end; without padding."""
    return tokenizer(text, truncation=True, max_length=length).input_ids


def _changes(old: list, new: list) -> list[tuple[int, int, int, int]]:
    """Spans (of old, of new) that differ."""
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [(a, b, c, d) for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal"]


def _bare(word: str) -> str:
    return word.strip(",.;").lower()


def _same(left: list[str], right: list[str]) -> bool:
    return [_bare(word) for word in left] == [_bare(word) for word in right]


def same(one: str, other: str) -> bool:
    """Whether a CLIP tokenizer takes two texts for one: case and spaces do not count."""
    return one.lower().split() == other.lower().split()


def check_anchors(concepts: Mapping[str, Mapping[str, str]]) -> None:
    """Raises UserError for a concept whose anchor says the same as its prompt: nothing would be erased."""
    for key, concept in concepts.items():
        if same(concept["prompt"], concept["anchor"]):
            raise UserError(
                f"concepts.{key}.anchor: {concept['anchor']!r} is the prompt itself, so nothing would be erased; "
                "give the text of what may be drawn in its place"
            )
