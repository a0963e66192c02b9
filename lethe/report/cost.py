"""What a row cost: seconds, passes and memory of the chain of its weights; how large and fast a model came out, in the
precision and with the sampler that drew its pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from lethe.files.io import read_meta
from lethe.measuring.runs import Run
from lethe.models.unets import read_pruning

PASSES = ("student_forward", "student_backward", "teacher_forward")
MB = 2**20


@dataclass(frozen=True)
class Cost:
    """Mean over the training seeds of one run from the base model to these weights.

    `seconds`: of the stages prune, distill, bilevel, erase that lead there. `passes`: samples through a network,
    forward or backward, student or teacher. `macs_kept`, `params_kept`: what is left, of the dense model's 1.0.
    `macs_released`: the same as the released code counts (`lethe.models.macs`), if the stage prune told it.
    `latency`: {"dense", "kept"} -> batch size -> milliseconds a forward pass, in float32, if the stage prune measured
    it. `zeroed`: share of weights that an eraser set to zero, if it says so. `train_mb`: peak memory of the most
    demanding of those stages. Of drawing: `precision` of the U-Net; `drawn_latency` (batch size -> milliseconds),
    `latency_ratio` (to that in float32, at the largest batch, measured in turns, so that what else the machine did
    cancels) and `weights_mb` (size of its parameters), if the stage sample measured them; `draw_mb`: peak memory;
    `draw_passes`: samples through the U-Net for one picture.
    """

    seconds: float
    passes: float
    macs_kept: float | None
    params_kept: float | None
    latency: dict[str, dict[str, float]] | None
    zeroed: float | None
    devices: tuple[str, ...]
    precision: str = "float32"
    drawn_latency: dict[str, float] | None = None
    latency_ratio: float | None = None
    weights_mb: float | None = None
    draw_mb: float | None = None
    draw_passes: float | None = None
    train_mb: float | None = None
    macs_released: float | None = None

    @property
    def dense(self) -> bool:
        """No pruning led there."""
        return self.macs_kept == 1.0

    def forward_ms(self, dense: dict[str, float] | None) -> dict[str, float]:
        """Batch size -> median milliseconds of a forward pass in the precision that drew; {} if nobody measured it.

        What the stage prune measured in float32 stands in for older samples. `dense`: its times of the dense model.
        """
        if self.drawn_latency or self.precision != "float32":
            return self.drawn_latency or {}
        return (dense if self.dense else self.latency and self.latency["kept"]) or {}


class _Drawing(TypedDict):
    """What `Cost` tells of drawing, by its names."""

    precision: str
    drawn_latency: dict[str, float] | None
    latency_ratio: float | None
    weights_mb: float | None
    draw_mb: float | None
    draw_passes: float | None


def of(runs: list[Run]) -> Cost:
    """The cost of a row from the meta.json of its chains."""
    chains = [run.chain for run in runs]
    seconds = [sum(link["seconds"] for link in chain) for chain in chains]
    passes = [sum(link.get("budget", {}).get(name, 0) for link in chain for name in PASSES) for chain in chains]
    zeroed = [link["eraser"]["zeroed"] for chain in chains for link in chain if "zeroed" in link.get("eraser", {})]
    drawn = [read_meta(run.samples) for run in runs]
    latency = [link["latency_ms"] for link in chains[0] if link["stage"] == "prune" and link.get("latency_ms")]
    return Cost(
        seconds=float(np.mean(seconds)),
        passes=float(np.mean(passes)),
        macs_kept=_kept(runs[0], "macs"),
        params_kept=_kept(runs[0], "params"),
        latency=latency[0] if latency else None,
        zeroed=float(np.mean(zeroed)) if zeroed else None,
        devices=tuple(sorted({link.get("machine", {}).get("device", "cpu") for chain in chains for link in chain})),
        train_mb=_most(link for chain in chains for link in chain),
        macs_released=_kept(runs[0], "macs_released", dense=None),
        **_drawing(drawn),
    )


def dense_latency(costs: Iterable[Cost]) -> dict[str, float] | None:
    """Batch size -> milliseconds of the dense model, as the stage prune measured it on the way to any of some rows."""
    return next((cost.latency["dense"] for cost in costs if cost.latency), None)


def _drawing(drawn: list[dict]) -> _Drawing:
    """What the meta.json of a row's samples, one a training seed, tell of the U-Net that drew."""
    precision = drawn[0].get("options", {}).get("precision", "float32")
    told = [meta["unet"] for meta in drawn if "unet" in meta]  # not where a killed run had drawn the last tile
    times = [one["latency_ms"][precision] for one in told]
    ratios = [one["latency_ms"][precision]["8"] / one["latency_ms"]["float32"]["8"] for one in told]
    return {
        "precision": precision,
        "drawn_latency": {size: float(np.median([one[size] for one in times])) for size in times[0]} if times else None,
        "latency_ratio": float(np.median(ratios)) if ratios and precision != "float32" else None,
        "weights_mb": told[0]["bytes"] / MB if told else None,
        "draw_mb": _most(drawn),
        "draw_passes": _passes(drawn[0]),
    }


def _passes(samples: dict) -> float | None:
    """Of one picture, guidance and all; the last tile's pictures that were cut away are no picture's cost."""
    tile, pictures = samples.get("options", {}).get("tile"), samples.get("pictures")
    if not tile or not pictures:
        return None
    return sum(samples["budget"].values()) / (-(-pictures // tile) * tile)


def _most(metas: Iterable[dict]) -> float | None:
    """The largest peak memory; None where none is told."""
    return max((meta["peak_memory_mb"] for meta in metas if meta.get("peak_memory_mb")), default=None)


def _kept(run: Run, what: str, dense: float | None = 1.0) -> float | None:
    """From the pruning.json that every pruned U-Net carries; a chain without the stage prune is still dense."""
    if all(link["stage"] != "prune" for link in run.chain):
        return dense
    found = [pruning for pruning in map(read_pruning, run.weights) if pruning]
    amount = found[-1].get(what) if found else None
    return amount["kept"] / amount["dense"] if amount else None
