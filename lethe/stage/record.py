"""What a result says of itself: options, parents, seeds, code, machine, cost (DESIGN rule 3)."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lethe.files.io import META, read_meta, sha256, write_json

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
    "torch-pruning",
    "clean-fid",
    "open_clip_torch",
)


@dataclass
class Budget:
    """Compute spent, counted in samples: one image through one network once, forward or backward."""

    student_forward: int = 0
    student_backward: int = 0
    teacher_forward: int = 0

    @property
    def passes(self) -> int:
        """All of them, each counted as one."""
        return sum(asdict(self).values())

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


class Recorder:
    """Made when a stage starts its work; `write` is the stage's last act before the rename."""

    def __init__(self, stage: str, version: int, recipe: str, options: Mapping, parents: Mapping[str, Path]):
        """`parents` maps a role ("base", "pruned", ...) to a folder; its recipe is read if it is one of our results."""
        self.started = time.monotonic()
        self.head = {
            "stage": stage,
            "version": version,
            "recipe": recipe,
            "options": dict(options),
            "parents": {role: _parent(folder) for role, folder in parents.items()},
        }

    def write(self, folder: Path, *, budget: Budget | None = None, device: str = "cpu", **extra: object) -> None:
        """Writes `meta.json` into `folder`: the above, cost, and the sha256 of every file already there."""
        files = {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        write_json(
            folder / META,
            self.head
            | {
                "code": code_revision(),
                "packages": versions(),
                "machine": {"device": device, "cpu": cpu_name(), "python": platform.python_version()},
                "seconds": round(time.monotonic() - self.started, 2),
                "peak_memory_mb": peak_memory_mb(),
                "budget": asdict(budget or Budget()),
                "files": files,
            }
            | extra,
        )


def _parent(folder: Path) -> dict:
    folder = Path(folder)
    if (folder / META).is_file():
        return {"folder": str(folder), "recipe": read_meta(folder)["recipe"]}
    return {"folder": str(folder)}


def versions() -> dict[str, str]:
    """Installed versions from package metadata, read without importing the packages."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_revision() -> str:
    """Commit of the code, with "+changes" if tracked files differ; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # may be installed inside another project's checkout
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"


def cpu_name() -> str:
    """Model name of the processor, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory_mb() -> int:
    """Peak memory of this process in MB: resident, or on the device if CUDA was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
