"""What a row cost: seconds and passes of the chain of its weights, and how large and fast a model came out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lethe.models import PRUNING, read_pruning
from lethe.report.runs import Run

PASSES = ("student_forward", "student_backward", "teacher_forward")


@dataclass(frozen=True)
class Cost:
    """Mean over the training seeds of one run from the base model to these weights.

    `seconds`: of the stages prune, distill, bilevel, erase that lead there. `passes`: samples through a network,
    forward or backward, student or teacher. `macs_kept`, `params_kept`: what is left, of the dense model's 1.0.
    `latency`: {"dense", "kept"} -> batch size -> milliseconds a forward pass, if the stage prune measured it.
    `zeroed`: share of weights that an eraser set to zero, if it says so.
    """

    seconds: float
    passes: float
    macs_kept: float | None
    params_kept: float | None
    latency: dict[str, dict[str, float]] | None
    zeroed: float | None
    devices: tuple[str, ...]

    @property
    def dense(self) -> bool:
        """No pruning led there."""
        return self.macs_kept == 1.0


def of(runs: list[Run]) -> Cost:
    """The cost of a row from the meta.json of its chains."""
    chains = [run.chain for run in runs]
    seconds = [sum(link["seconds"] for link in chain) for chain in chains]
    passes = [sum(link.get("budget", {}).get(name, 0) for link in chain for name in PASSES) for chain in chains]
    zeroed = [link["eraser"]["zeroed"] for chain in chains for link in chain if "zeroed" in link.get("eraser", {})]
    latency = [link["latency_ms"] for link in chains[0] if link["stage"] == "prune" and link.get("latency_ms")]
    return Cost(
        seconds=float(np.mean(seconds)),
        passes=float(np.mean(passes)),
        macs_kept=_kept(runs[0], "macs"),
        params_kept=_kept(runs[0], "params"),
        latency=latency[0] if latency else None,
        zeroed=float(np.mean(zeroed)) if zeroed else None,
        devices=tuple(sorted({link.get("machine", {}).get("device", "cpu") for chain in chains for link in chain})),
    )


def _kept(run: Run, what: str) -> float | None:
    """From the pruning.json that every pruned U-Net carries; a chain without the stage prune is still dense."""
    if all(link["stage"] != "prune" for link in run.chain):
        return 1.0
    found = [folder for folder in run.weights if _is_pruned(folder)]  # an eraser at sampling time writes no weights
    amount = read_pruning(found[-1]).get(what) if found else None
    return amount["kept"] / amount["dense"] if amount else None


def _is_pruned(folder: Path) -> bool:
    return (folder / "unet" / PRUNING).is_file()
