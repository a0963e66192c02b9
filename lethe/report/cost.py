"""What an arm cost: seconds and passes of the chain of its weights, and how large a model came out."""

from dataclasses import dataclass

import numpy as np

from lethe.models import PRUNING, read_pruning
from lethe.report.runs import Run

PASSES = ("student_forward", "student_backward", "teacher_forward")


@dataclass(frozen=True)
class Cost:
    """Mean over the training seeds of one run from the base model to these weights.

    `seconds`: of the stages prune, distill, bilevel, erase that lead there. `passes`: samples through a network,
    forward or backward, student or teacher. `macs_kept`: MACs left, of the dense model's 1.0.
    """

    seconds: float
    passes: float
    macs_kept: float | None
    devices: tuple[str, ...]


def of(runs: list[Run]) -> Cost:
    """The cost of an arm from the meta.json of its chains."""
    chains = [run.chain for run in runs]
    seconds = [sum(link["seconds"] for link in chain) for chain in chains]
    passes = [sum(link.get("budget", {}).get(name, 0) for link in chain for name in PASSES) for chain in chains]
    devices = sorted({link.get("machine", {}).get("device", "cpu") for chain in chains for link in chain})
    return Cost(float(np.mean(seconds)), float(np.mean(passes)), _macs_kept(runs[0]), tuple(devices))


def _macs_kept(run: Run) -> float | None:
    """From the pruning.json that every pruned U-Net carries; a chain without the stage prune is still dense."""
    if all(link["stage"] != "prune" for link in run.chain):
        return 1.0
    if not (run.weights[-1] / "unet" / PRUNING).is_file():
        return None
    macs = read_pruning(run.weights[-1])["macs"]
    return macs["kept"] / macs["dense"]
