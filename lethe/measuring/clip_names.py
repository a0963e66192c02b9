"""open_clip's names of networks: NAME@PRETRAINED or local-dir:FOLDER; checked, and their files fetched."""

import functools
from pathlib import Path

from lethe.files.errors import NotThere, UserError

LOCAL = "local-dir:"  # open_clip's scheme for a folder with open_clip_config.json and weights
QUICK = "-quickgelu"  # at the end of names of architectures with OpenAI's activation


def parsed(text: str) -> tuple[str, str | None]:
    """open_clip's name of a model and of its weights.

    Raises UserError if it is neither, names a file (whose form open_clip could not know), or gives OpenAI's weights to
    an architecture with another activation: open_clip only warns of that, and the similarities are wrong.
    """
    if text.startswith(LOCAL):
        return text, None
    name, sign, pretrained = text.partition("@")
    if not (name and sign and pretrained):
        raise UserError(f"score.clip: {text!r} is neither {LOCAL}FOLDER nor NAME@PRETRAINED (as in open_clip's list)")
    if Path(pretrained).is_file():
        raise UserError(f"score.clip: {pretrained} is a file; put it beside its open_clip_config.json: {LOCAL}FOLDER")
    if pretrained == "openai" and not name.endswith(QUICK):
        raise _other_activation(name, pretrained)
    return name, pretrained


def _other_activation(name: str, pretrained: str) -> UserError:
    return UserError(
        f"score.clip: {name}@{pretrained}: these weights were trained with QuickGELU, that architecture has GELU; give "
        f"{name}{QUICK}@{pretrained}"
    )


def check_activation(name: str, pretrained: str | None) -> None:
    """The same for all of open_clip's weights, as its list tells. Imports open_clip."""
    import open_clip

    if pretrained is None:
        return
    known = open_clip.get_pretrained_cfg(name + QUICK, pretrained)
    if known and known.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise _other_activation(name, pretrained)


def file(name: str) -> Path:
    """The file of open_clip's NAME@PRETRAINED, fetched if it is not kept yet; that is tried once a process.

    Raises UserError for a pair that open_clip does not know, NotThere if it cannot be fetched.
    """
    import open_clip

    model, _, pretrained = name.partition("@")
    if not open_clip.get_pretrained_cfg(model, pretrained):
        known = open_clip.list_pretrained_tags_by_model(model)
        which = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "") if known else "none, nor such a model"
        raise UserError(f"{name}: open_clip knows no weights {pretrained!r} of {model}; known: {which}")
    found = _fetched(model, pretrained)
    if isinstance(found, str):
        raise NotThere(f"{name}: its weights cannot be fetched: {found}")
    return found


@functools.cache
def _fetched(model: str, pretrained: str) -> Path | str:
    """The file, or why there is none."""
    import open_clip

    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained)))
    except (OSError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())[:200]
