"""COCO's captions (captions_val2017.json) as rows of a prompt list: one caption a picture."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from lethe.files.errors import UserError

FIRST, LAST = "first", "last"
RULES = [FIRST, LAST]


def rows(path: Path, text: str, rule: str) -> Iterator[Mapping[str, str]]:
    """Pictures in the order of their ids: `case_number`, the id, and under "" the caption; empty for one without any.

    `rule`: first takes the caption of the lowest annotation id, last of the highest. Line ends and runs of blanks in a
    caption become one blank. Raises UserError for what is not COCO's captions, an id given twice, and a caption of a
    picture that is not listed.
    """
    try:
        found = json.loads(text)
        images = [int(image["id"]) for image in found["images"]]
        notes = [(int(note["id"]), int(note["image_id"]), note["caption"]) for note in found["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not COCO's captions (images: id; annotations: id, image_id, caption): "
            f"{type(error).__name__} {error}"
        ) from None
    captions = dict.fromkeys(sorted(images), "")
    if len(captions) < len(images):
        raise UserError(f"{path}: {len(images) - len(captions)} picture ids stand there twice; fetch it again")
    notes.sort(key=lambda note: note[0], reverse=rule == FIRST)  # what comes last is what stays
    for note, image, caption in notes:
        if not isinstance(caption, str):
            raise UserError(f"{path} annotation {note}: caption {caption!r} is no text; mend or delete it")
        if image not in captions:
            raise UserError(f"{path} annotation {note}: picture {image} is not among its images; mend or delete it")
        captions[image] = " ".join(caption.split())
    return iter([{"case_number": str(image), "": caption} for image, caption in captions.items()])
