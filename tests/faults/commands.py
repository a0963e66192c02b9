"""Every stage's command, at a size of about a second, and what makes two of its results equal."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from lethe.files.io import META, read_meta, sha256
from lethe.stage import cli
from tests import fabricated, tiny_judges
from tests.stages.running import ENCODE, PRUNE, Ready
from tests.tiny_training import OPTIONS, UPPER

SAMPLE = {"sampler": "ddim", "steps": 6, "guidance": 4.0, "tile": 1, "precision": "float32"}
TRAJECTORIES = {"upper_source": "trajectories", "upper_sampler_steps": 6, "upper_reuse": 3, "upper_every": 1}
DISTILL = {"steps": 12, "batch": 2, "ema": 0.9}
SMALL = {"steps": 9, "batch": 2, "upper_batch": 2}
ESD = {"variant": "x", "steps": 9, "batch": 2, "lr": 1.0e-3, "eta": 1.0, "erase_from": "empty", "states": "frozen"}
ESD |= {"guidance": 3.0, "sampler_steps": 6, "reuse": 2}
RELEARN = {"attack": "relearn", "source": "concepts", "count": None, "rank": None, "steps": 8, "batch": 2, "lr": 1.0e-3}
CONCEPTS = {
    "monet": {"prompt": "a painting by monet", "anchor": "a painting"},
    "van_gogh": {"prompt": "a painting by van gogh", "anchor": "a painting"},
}


@dataclass(frozen=True)
class Case:
    """A stage and its command line, but for the places that it writes to. `keeps`: it has a state to go on from."""

    stage: str
    words: tuple
    keeps: bool = False

    def at(self, folder: Path) -> list[str]:
        """The command that writes below `folder`: results/out and, of some stages, state."""
        more = ["--threads", "1", "--device", "cpu"]
        more += ["--state", folder / "state"] if self.keeps else []
        more += ["--checkpoint-seconds", "0"] if self.keeps and self.stage != "sample" else []
        more += ["--cache", folder / "features"] if self.stage == "score" else []
        return [*map(str, self.words), *map(str, more), "--out", str(folder / "results/out")]


def cases(ready: Ready, pictures: Path, folder: Path) -> dict[str, Case]:
    """By the stage's name."""
    base, model = ["--base", ready.base], ["--model", ready.pruned]
    prompts, named = _prompts(folder), json.dumps(CONCEPTS)
    many = _many(pictures, folder / "pictures", 6)
    seeded = ["--seed", 0]
    return {
        "encode": Case("encode", (*base, "--pictures", many, *cli.flags(ENCODE | {"flip": True}))),
        "prune": Case("prune", (*base, "--budget", 0.8, *cli.flags(PRUNE))),
        "distill": Case("distill", (*ready.training(), *cli.flags(OPTIONS | DISTILL)), True),
        "bilevel": Case(
            "bilevel",
            (*ready.training("--concepts", *ready.named()), *cli.flags(OPTIONS | UPPER | TRAJECTORIES | SMALL)),
            True,
        ),
        "erase": Case("erase", (*base, *model, "--eraser", "esd", "--concepts", named, *seeded, *cli.flags(ESD)), True),
        "sample": Case("sample", (*base, *model, "--prompts", *prompts, *cli.flags(SAMPLE)), True),
        "attack": Case(
            "attack",
            (
                *(*base, *model, "--concepts", named, "--each", 2, *seeded, "--prompts", *prompts),
                *("--concept-pictures", *ready.named()),
                *cli.flags({f"sample_{key}": value for key, value in SAMPLE.items()} | RELEARN),
            ),
            True,
        ),
        "score": Case("score", _score(pictures, folder)),
        "report": Case("report", _report(folder)),
    }


def _prompts(folder: Path) -> list[str]:
    for number, name in enumerate(CONCEPTS):
        rows = [f"{row},a {thing} by {name},{100 * number + row}" for row, thing in enumerate(["boat", "sun"] * 4)]
        (folder / f"{name}.csv").write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]) + "\n")
    return [f"{name}={folder / name}.csv" for name in CONCEPTS]


def _many(pictures: Path, folder: Path, times: int) -> Path:
    """The pictures several times over."""
    folder.mkdir()
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    lines = []
    for number in range(times):
        for row in rows:
            name = f"{number}-{row['file_name']}"
            shutil.copy(pictures / row["file_name"], folder / name)
            lines.append(json.dumps(row | {"file_name": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _score(pictures: Path, folder: Path) -> tuple:
    prompts = tiny_judges.write_prompts(folder / "prompts")
    return (
        *("--samples", tiny_judges.write_samples(folder / "samples", 1), "--eval-pictures", pictures),
        *("--prompts", *(f"{name}={path}" for name, path in prompts.items())),
        *("--concepts", json.dumps(tiny_judges.concepts(pictures)), "--erased", "monet"),
        *cli.flags(tiny_judges.section(tiny_judges.judges(folder / "judges"))),
    )


def _report(folder: Path) -> tuple:
    plan = fabricated.experiment(folder / "experiment", fabricated.params(), count=2, side=8)
    return ("--plan", plan, "--experiment", "fabricated", "--bootstrap", 200, "--grid-prompts", 2)


def files(out: Path) -> dict[str, str]:
    """What must be equal: every file's sha256; of meta.json only what no clock and no machine decides."""
    found = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    hashes = {name: sha256(path) for name, path in found.items() if name != META}
    if META in found:
        told = read_meta(out)
        assert told["files"] == hashes, "meta.json tells of other files than those that are there"
        keys = ("recipe", "options", "parents", "budget", "levels", "pictures")
        hashes |= {META: json.dumps({"keys": sorted(told)} | {key: told.get(key) for key in keys}, sort_keys=True)}
    return hashes


def is_whole(out: Path) -> bool:
    """Whether a result stands there as finished; an unfinished one counts as absent."""
    return (out / META).is_file() or any(out.glob("recipe-*.json"))


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with what changes when it is made again."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}
