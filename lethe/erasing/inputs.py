"""What erasers and attacks are given on the command line: concepts, and encoded pictures that a plug-in needs."""

import json
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import read_json
from lethe.stage import cli
from lethe.texts.wording import check_anchors

LONGEST = 61  # characters of a name, as in params files: names of files are made of it


def read_needs(name: str, needs: list[str], concepts: dict, pictures: list[str], data: Path | None) -> dict[str, Path]:
    """The encoded pictures that a plug-in needs, by role; others are left out. Raises UserError for missing ones."""
    found = cli.named_paths(pictures, "--concept-pictures") if "concepts" in needs else {}
    missing = [concept for concept in concepts if concept not in found] if "concepts" in needs else []
    if missing:
        raise UserError(f"--concept-pictures: {name} needs encoded pictures of {', '.join(missing)}: give NAME=FOLDER")
    if "data" in needs and not data:
        raise UserError(f"--data: {name} needs the fine-tuning pictures: give a result of stage encode")
    own = {f"concept:{concept}": found[concept] for concept in concepts if found}
    return {"data": data} | own if "data" in needs and data else own


def read_concepts(text: str) -> dict[str, dict[str, str]]:
    """{name: {prompt, anchor}} sorted by name, further keys dropped. Raises UserError if it is not that."""
    try:
        found = read_json(Path(text[1:])) if text.startswith("@") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--concepts: not JSON ({error}); give {{name: {{prompt, anchor}}}}, or @FILE") from None
    if not isinstance(found, dict) or not found:
        raise UserError("--concepts: names no concept; give {name: {prompt, anchor}}")
    for name, concept in found.items():
        if not name.isprintable() or not 0 < len(name.strip()) <= LONGEST:
            raise UserError(
                f"--concepts: the name {name!r} is empty, over {LONGEST} characters, or has line ends in it"
            )
        for key in ("prompt", "anchor"):
            if not isinstance(concept, dict) or not isinstance(concept.get(key), str):
                raise UserError(f"--concepts: {name} has no text {key!r}; give {{name: {{prompt, anchor}}}}")
            if "\0" in concept[key] or (key == "prompt" and not concept[key].strip()):
                raise UserError(f"--concepts: {name}.{key}: {concept[key]!r} is no text (empty, or with a NUL byte)")
    check_anchors(found)
    return {name: {key: found[name][key] for key in ("prompt", "anchor")} for name in sorted(found)}
