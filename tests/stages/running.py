"""Real stages on tiny bases: called in this process, or as commands that must not import torch, or are killed."""

import importlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from lethe.files.io import read_meta, sha256
from lethe.stage import cli

ENCODE = {"flip": False, "generated": 4}
DEVICE = "cpu"
PRUNE = {"pruner": "magnitude", "keep_least": 0.2, "tolerance": 0.1}


def stage(name: str, *words: object, **values: object) -> None:
    """Calls the stage's `main` with these words, and with values as flags."""
    argv = [name, *map(str, words), *cli.flags(values), "--device", DEVICE]
    with mock.patch.object(sys, "argv", argv):
        importlib.import_module(f"stages.{name}").main()


@dataclass(frozen=True)
class Ready:
    """A base, its pruned U-Net, and pictures encoded with it: for fine-tuning, and of two concepts."""

    base: Path
    pruned: Path
    data: Path
    concepts: dict[str, Path]

    def training(self, *words: object) -> list[object]:
        return ["--base", self.base, "--pruned", self.pruned, "--data", self.data, "--seed", 0, *words]

    def named(self) -> list[str]:
        return [f"{name}={folder}" for name, folder in self.concepts.items()]


def prepare(base: Path, pictures: Path, folder: Path) -> Ready:
    stage("prune", "--base", base, "--budget", 0.8, "--out", folder / "pruned", **PRUNE)
    stage("encode", "--base", base, "--pictures", pictures, "--out", folder / "data", **ENCODE)
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    concepts = {}
    for name in ("van_gogh", "monet"):
        own = folder / "pictures" / name
        own.mkdir(parents=True)
        chosen = [row for row in rows if row["style"] == name]
        for row in chosen:
            (own / row["file_name"]).symlink_to(pictures / row["file_name"])
        (own / "metadata.jsonl").write_text("\n".join(map(json.dumps, chosen)))
        concepts[name] = folder / name
        words = ["--base", base, "--pictures", own, "--prompt", f"a boat by {name}", "--anchor", "a boat"]
        stage("encode", *words, "--out", concepts[name], **ENCODE)
    return Ready(base, folder / "pruned", folder / "data", concepts)


LIGHT = """
import importlib, sys
stage = importlib.import_module("stages." + sys.argv[0])
stage.main()
heavy = sorted({"torch", "diffusers", "transformers", "numpy"} & set(sys.modules))
assert not heavy, heavy
"""


def finished_without_torch(name: str, words: list, values: dict) -> str:
    """What the stage prints, given a command whose result stands. Fails if it imports torch for that."""
    argv = [*map(str, words), *cli.flags(values)]
    code = LIGHT.replace("import importlib, sys", f"import importlib, sys; sys.argv = {[name, *argv]!r}")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def kill_after_first_checkpoint(name: str, words: list, values: dict, state: Path) -> None:
    """Starts the command and kills it, without a chance to tidy up, as soon as it has saved a state."""
    argv = [sys.executable, "-m", f"stages.{name}", *map(str, words), *cli.flags(values)]
    more = ["--state", str(state), "--checkpoint-seconds", "0", "--device", "cpu", "--threads", "1"]
    with subprocess.Popen([*argv, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not any(state.glob("step-*.safetensors")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def weights(folder: Path) -> str:
    """sha256 of the trained weights."""
    return sha256(folder / "unet" / "diffusion_pytorch_model.safetensors")


def alike(one: Path, other: Path) -> bool:
    """Whether two results are equal: weights and log bit for bit, recipe, and the compute that is counted."""
    metas = [{key: read_meta(folder)[key] for key in ("recipe", "budget", "files")} for folder in (one, other)]
    return metas[0] == metas[1] and weights(one) == weights(other)
