"""Prompts made from a concept's name: the published templates of UCE and of ConceptPrune."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence

from lethe.files.errors import UserError
from lethe.texts.wording import same, words

EXPANSIONS = {  # UCE (2308.14761), released code
    "none": [],
    "art": ["painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"],
    "object": ["image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"],
}
PAIRS = {  # ConceptPrune (2405.19237), released code: (without the concept, with it)
    "style": ("a photo of a {subject}", "a {subject} in the style of {concept}"),
    "unsafe": ("a photo of a {subject}", "a photo of a {concept} {subject}"),
    "object": ("a {subject}", "a {concept} in a {subject}"),
    "attribute": ("a headshot of a {subject}", "a headshot of a {subject}"),
    "memorised": ("", "{prompt}"),
}
FIELDS = ("subject", "concept", "prompt")
_LITTLE = {"a", "an", "as", "by", "in", "manner", "of", "style", "the", "with"}


def name(concept: Mapping[str, str]) -> str:
    """What a concept's prompt says over its anchor, without the little words before it: "a painting by monet" over
    "a painting" is "monet". The whole prompt if it says nothing more.
    """
    found = words(concept["prompt"], concept["anchor"]).split()
    while len(found) > 1 and found[0].lower() in _LITTLE:
        found.pop(0)
    return " ".join(found) or concept["prompt"]


def expanded(concept: Mapping[str, str], kind: str) -> list[str]:
    """The concept's prompt, and its name in the templates of EXPANSIONS[kind]."""
    return [concept["prompt"], *in_templates(name(concept), kind)]


def in_templates(text: str, kind: str) -> list[str]:
    """The text in the templates of EXPANSIONS[kind], in their order."""
    return [template.format(text).strip() for template in EXPANSIONS[kind]]


def mentions(text: str, concept: Mapping[str, str]) -> bool:
    """Whether the text is the concept's prompt or holds its name as whole words; case does not count."""
    found = re.search(rf"(?<!\w){re.escape(name(concept))}(?!\w)", text, re.IGNORECASE)
    return found is not None or same(text, concept["prompt"])


def pairs(
    concept: Mapping[str, str], subjects: Sequence[str], task: str, base: str | None, target: str | None, where: str
) -> list[tuple[str, str]]:
    """For each subject its prompt without the concept and that with it; templates not given are the task's own.

    {subject} is the subject, and of a subject "man/woman" its first word without, its second with the concept;
    {concept} the concept's name; {prompt} its prompt. A template without {subject} gives every subject the same
    prompt. Raises UserError for another field, and for a pair of equal prompts.
    """
    given = {"base_template": PAIRS[task][0] if base is None else base}
    given["target_template"] = PAIRS[task][1] if target is None else target
    for key, template in given.items():
        _check(template, f"{where}.{key}")
    found = []
    for subject in subjects:
        first, sign, second = subject.partition("/")
        values = {"concept": name(concept), "prompt": concept["prompt"]}
        one, other = (
            template.format(subject=form.strip(), **values)
            for template, form in zip(given.values(), (first, second if sign else first), strict=True)
        )
        if same(one, other):
            raise UserError(
                f"{where}: subject {subject!r} gives the pair {one!r} and {other!r}, which do not differ; name the "
                "concept in target_template, or give subjects in two forms, such as man/woman"
            )
        found.append((one, other))
    return found


def check_pairs(options: Mapping, concepts: Iterable[Mapping[str, str]], where: str) -> None:
    """Of an eraser whose options make pairs of prompts: they must differ. Seen when a run is planned, not in a job."""
    if "target_template" in options:
        for concept in concepts:
            subjects, task = options["subjects"], options["task"]
            pairs(concept, subjects, task, options["base_template"], options["target_template"], where)


def _check(template: str, where: str) -> None:
    try:
        found = [parts for parts in string.Formatter().parse(template) if parts[1] is not None]
    except ValueError as error:
        raise UserError(f"{where}: {template!r} is no template ({error})") from None
    if any(spec or conversion for _, _, spec, conversion in found):
        raise UserError(f"{where}: {template!r} has a field with ':' or '!'; a field is its name alone, as {{subject}}")
    fields = {field for _, field, _, _ in found if field is not None}
    if fields - set(FIELDS):
        raise UserError(
            f"{where}: {template!r} has the unknown field {{{min(fields - set(FIELDS))}}}; "
            f"known: {', '.join(f'{{{field}}}' for field in FIELDS)}"
        )
