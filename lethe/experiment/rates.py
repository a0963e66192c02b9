"""What jobs take on a GPU, from the step times that `make bench` measured: reports/bench/*.json.

A rate counts only where the job's settings are those of the measured row: budget, batch, precision, steps. All else is
not measured, and nothing is put in its place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

from lethe.experiment.graph import Node
from lethe.files.io import read_json
from lethe.params import registry

BENCH = Path("reports/bench")
SIZES = Path(__file__).parents[1] / "bench" / "sizes.yaml"
FORM = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim")
OURS = "ours"  # rows of a bench that are the stage as it stands: this name, or ours_BUDGET


@dataclass(frozen=True)
class Rates:
    """Measured rows of one device, by kind (distill, bilevel, sample, encode) and budget."""

    device: str
    file: Path
    rows: Mapping[tuple[str, float], Mapping]

    @property
    def wide(self) -> list[str]:
        """Kinds and budgets of which the bench itself says that its measurements spread widely."""
        return [f"{kind} at {budget:g}" for (kind, budget), row in self.rows.items() if "spread" in row]


def measured(base: Mapping, folder: Path = BENCH) -> list[Rates]:
    """Those of networks of the base's form at its resolution, one a device; what a bench did not reach is left out.

    A base that is not there yet counts as the one whose mirror it names.
    """
    known = yaml.safe_load(SIZES.read_text(encoding="utf-8"))
    found = []
    for file in sorted(folder.glob("*.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        size = known.get(told.get("size")) if isinstance(told, Mapping) else None
        if not size or not _fits(base, size):
            continue
        rows = [row for row in told["rows"] if row["name"].partition("_")[0] == OURS and "ms" in row]
        found.append(Rates(told["device"], file, {(row["kind"], row["settings"]["budget"]): row for row in rows}))
    return found


def _fits(base: Mapping, size: Mapping) -> bool:
    config = Path(base["path"]) / "unet" / "config.json"
    if not config.is_file():
        ids = {base["path"], *(mirror["id"] for mirror in base.get("mirrors", []))}
        return base["resolution"] == size["pixels"] and bool(ids & set(size.get("hub", [])))
    own = read_json(config)
    pixels = base["resolution"] or 8 * own.get("sample_size", 0)
    return pixels == size["pixels"] and all(own.get(key) == size["unet"][key] for key in FORM)


def seconds(node: Node, rates: Rates, counts: Mapping[str, int]) -> float | None:
    """GPU-seconds of a job; None if they were not measured. `counts`: prompts of a CSV and pictures of a folder, by its
    path, where they are known."""
    own = node.options
    match node.stage:
        case "distill" | "bilevel":
            row = _row(node, rates)
            return own["steps"] * row["ms"] / 1000 if row and _trains_so(node.stage, own, row) else None
        case "sample":
            row, pictures = _row(node, rates), _pictures(node, counts)
            return pictures / row["pictures"] * row["ms"] / 1000 if row and pictures and _draws_so(own, row) else None
        case "encode":
            rows = [row for (kind, _), row in rates.rows.items() if kind == "encode"]
            pictures = counts.get(node.pictures[0] if node.pictures else "", 0) * (2 if own["flip"] else 1)
            return pictures / rows[0]["pictures"] * rows[0]["ms"] / 1000 if rows and pictures else None
        case _:
            return None


def _trains_so(stage: str, own: Mapping, row: Mapping) -> bool:
    """Whether a training has the row's batch and precision, asks the teacher as it does, and forgets as it does."""
    same = own["batch"] == row["batch"] and own["precision"] == row["settings"]["precision"]
    same = same and own["w_out"] > 0 and own["w_feat"] > 0
    if stage == "distill":
        return same
    usual = {"solver": "alternate", "suppression": "negative_guidance", "upper_source": "pictures", "retain_weight": 0}
    usual |= {"upper_every": row["upper_every"], "upper_batch": row["batch"]}
    return same and all(own.get(key) == value for key, value in usual.items())


def _draws_so(own: Mapping, row: Mapping) -> bool:
    same = own["steps"] == row["steps"] and own["tile"] == row["pictures"] and own["guidance"] > 1
    return same and own["sampler"] == "ddim" and own["precision"] == row["settings"]["precision"]


def _row(node: Node, rates: Rates) -> Mapping | None:
    """The measured row of a job's stage and budget."""
    budget = _budget(node)
    return None if budget is None else rates.rows.get((node.stage, budget))


def _budget(node: Node) -> float | None:
    """What share of the MACs the U-Net of a job keeps, 0 for the dense one; None for what steers its sampling, which
    takes more than the U-Net alone."""
    if node.stage == "prune":
        return node.options["budget"]
    if node.stage == "erase" and registry.guides(node.options["eraser"]):
        return None
    parent = node.results.get("pruned") or node.results.get("model")
    return _budget(parent) if parent else 0.0


def _pictures(node: Node, counts: Mapping[str, int]) -> int | None:
    """Pictures that a sampling draws; None if some list is not there."""
    if "count" in node.options:
        return node.options["count"]
    words = node.flags[node.flags.index("--prompts") + 1 :]
    paths = [word.partition("=")[2] for word in takewhile(lambda word: not word.startswith("--"), words)]
    return sum(counts[path] for path in paths) if all(path in counts for path in paths) else None
