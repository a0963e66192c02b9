"""The base's folder: where it can be had, and whether its bytes are those that the params file names.

Nothing is fetched here. A folder's identity is its content, so mirrors with the same bytes give the same results.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from lethe.files import hashes
from lethe.files.errors import UserError

# of a hub's folder: the parts that stages read, without the fp16 twins and what else lies beside them
PARTS = ("model_index.json", "unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*")
SKIPPED = ("*.bin", "*.fp16.*", "*non_ema*", "*.ckpt", "*.msgpack", "*.onnx")


def commands(base: Mapping) -> list[str]:
    """A command for each mirror that puts its files where `base.path` looks for them, the first to be tried first."""
    globs = [word for glob in PARTS for word in ("--include", glob)]
    globs += [word for glob in SKIPPED for word in ("--exclude", glob)]
    found = []
    for mirror in base.get("mirrors", []):
        revision = ["--revision", mirror["revision"]] if mirror.get("revision") else []
        found.append(shlex.join(["hf", "download", mirror["id"], *revision, "--local-dir", base["path"], *globs]))
    return found


def check_there(base: Mapping) -> None:
    """Raises UserError, with the command that fetches it, for a folder with mirrors that is not there."""
    if (found := commands(base)) and not Path(base["path"]).is_dir():
        others = [mirror["id"] for mirror in base["mirrors"][1:]]
        more = f"; or from {', '.join(others)}" if others else ""
        raise UserError(f"{base['path']}: no such folder; fetch it: {found[0]}{more}")


def check_bytes(base: Mapping) -> None:
    """Raises UserError for a file that `base.sha256` names and that is absent or another one."""
    wanted = base.get("sha256")
    if not wanted:
        return
    folder = Path(base["path"])
    if not folder.is_dir():
        raise UserError(f"base.sha256: {folder} is no folder, so nothing can be held against it; leave it out")
    found = hashes.of_files(folder)
    for name, own in wanted.items():
        if name not in found:
            raise UserError(f"base.sha256: {folder / name}: no such file; fetch it again")
        if found[name][1] != own:
            told = f"its sha256 begins {found[name][1][:12]}, the params file has {own[:12]}"
            raise UserError(f"base.sha256: {folder / name}: {told}; it is another file, or half of it: fetch it again")
