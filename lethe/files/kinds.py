"""What a path is that was given for a model and is none: a LoRA, a hub's cache, a single file, a link to nothing."""

import json
import os
from pathlib import Path

SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
LORA = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
RESULT = "meta.json"  # a finished result of ours
MERGE = "load it into its base, fuse it (load_lora_weights, fuse_lora) and save_pretrained that"
WHOLE = "load it into its pipeline (from_single_file) and save_pretrained that"


def told(path: Path | str) -> str | None:
    """What stands at the path and what to give in its place, in words that follow its name; None if it is no such
    thing. Reads names and the header of a safetensors file alone."""
    path = Path(path)
    if link := dangling(path):
        return link
    if path.is_file():
        if path.name in LORA or _is_lora(path):
            return f"a LoRA, which is no model by itself: {MERGE}"
        return f"a file of weights; give a folder: {WHOLE}" if path.suffix in SINGLE else None
    if not path.is_dir() or (path / "model_index.json").is_file() or (path / RESULT).is_file():
        return None
    if (path / "snapshots").is_dir():
        return f"a hub's cache of {path.name.removeprefix('models--').replace('--', '/')}; give {_snapshot(path)}"
    cached = sorted(path.glob("models--*--*/snapshots"))
    if cached:
        return f"a hub's cache of several models; give one, such as {_snapshot(cached[0].parent)}"
    weights = [one for one in path.glob("*.safetensors") if one.is_file()]
    if any((path / name).is_file() for name in LORA) or any(map(_is_lora, weights)):
        return f"a folder of a LoRA, which is no model by itself: {MERGE}"
    if weights and not (path / "config.json").is_file():
        return f"a folder of files of weights ({weights[0].name}); give a whole one: {WHOLE}"
    return None


def dangling(path: Path | str) -> str | None:
    """The same of a link that leads nowhere; None if it is none."""
    path = Path(path)
    if not path.is_symlink() or path.exists():
        return None
    return f"broken link: {os.readlink(path)} is not there; mend it, or give what it should lead to"


def _snapshot(cache: Path) -> Path:
    """The folder in a model's cache that its main branch names, or else the first; without any, snapshots/COMMIT."""
    main = cache / "refs" / "main"
    named = [cache / "snapshots" / main.read_text().strip()] if main.is_file() else []
    found = [path for path in (*named, *sorted((cache / "snapshots").iterdir())) if path.is_dir()]
    return found[0] if found else cache / "snapshots" / "COMMIT"


def _is_lora(path: Path) -> bool:
    """Whether a safetensors file holds matrices of a LoRA alone, by its header."""
    if path.suffix != ".safetensors":
        return False
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else {}
    except (OSError, ValueError):
        return False
    names = [name for name in header if name != "__metadata__"] if isinstance(header, dict) else []
    return bool(names) and all("lora" in name.lower() or name.endswith((".alpha", ".dora_scale")) for name in names)
