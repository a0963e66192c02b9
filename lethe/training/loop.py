"""The one training loop: progress, log, averaged weights, checkpoints, resuming. What a step does is the step's affair.

A step is a pure function of the weights, the optimizers and its number: all that it draws comes from generators seeded
by that number. So a checkpoint holds tensors and counts only, and a run that was killed ends in the same weights, bit
for bit, as one that was not. SIGTERM makes it save after the step that it is in, and end.
"""

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from lethe.files import tensors
from lethe.files.checkpoints import Checkpoints
from lethe.files.errors import UserError
from lethe.files.io import PARTS, read_json, write_text
from lethe.stage import stopping
from lethe.stage.alone import alone
from lethe.stage.record import Budget

LOG = "log.csv"
ROWS = 60  # of log.csv, about


@dataclass(frozen=True)
class Training:
    """What a solver hands to the loop.

    `step(k)` takes one step and returns detached float32 scalar losses by name, still on the device.
    `modules` and `optimizers` are all that steps change; the loop saves and restores them.
    """

    step: Callable[[int], dict[str, torch.Tensor]]
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Keeping:
    """Where a run's state is kept: folder, the recipe it belongs to, seconds between checkpoints (0: every step)."""

    folder: Path
    recipe: str
    seconds: float


@dataclass
class Progress:
    """What has been done, beside tensors: the JSON part of a checkpoint."""

    recipe: str
    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    budgets: dict[str, dict[str, int]] = field(default_factory=dict)


def run(
    training: Training, steps: int, keeping: Keeping, budgets: Mapping[str, Budget], ema: float | None = None
) -> Progress:
    """Takes steps until `steps` are done, going on from the state in `keeping.folder` if there is one.

    `budgets` are those that the step counts in; restored on resuming. With `ema`, the module "student" ends with its
    averaged weights: decay min(ema, (1 + k) / (10 + k)), as in diffusers.
    Returned `rows` are those of the log: step, and each loss's mean since the row before; `seconds` is the time that
    earlier, killed runs spent. Raises UserError naming the step if a loss or a weight is not finite; such weights are
    never written. Two runs of one recipe, of two experiments perhaps, take turns.
    """
    with alone(keeping.folder):
        return _run(training, steps, keeping, budgets, ema)


def _run(
    training: Training, steps: int, keeping: Keeping, budgets: Mapping[str, Budget], ema: float | None
) -> Progress:
    device = next(training.modules["student"].parameters()).device
    average = (
        {f"ema.{k}": v.detach().clone() for k, v in training.modules["student"].state_dict().items()} if ema else {}
    )
    sums: dict[str, torch.Tensor] = {}
    bad = torch.full((), -1, dtype=torch.int64, device=device)  # first step whose loss is not finite, without a sync
    kept = Checkpoints(keeping.folder, keeping.seconds)
    progress = _load(training, kept, keeping.recipe, budgets, average, sums, device)
    earlier, started = progress.seconds, time.monotonic()
    every = max(1, steps // ROWS)
    bar = tqdm(total=steps, initial=progress.step, unit="step", disable=not sys.stderr.isatty())

    with stopping.held():
        for k in range(progress.step, steps):
            losses = training.step(k)
            bad = torch.where(torch.stack(list(losses.values())).isfinite().all() | (bad >= 0), bad, k)
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value.clone()
                progress.counts[name] = progress.counts.get(name, 0) + 1
            if ema:
                # looked up anew: a solver may move the student between devices
                current = [value.to(device) for value in training.modules["student"].state_dict().values()]
                torch._foreach_lerp_(list(average.values()), current, 1 - min(ema, (1 + k) / (10 + k)))
            progress.step = k + 1
            bar.update()
            if progress.step % every == 0 or progress.step == steps:
                _check(bad, training)
                row = {name: sums[name].item() / progress.counts[name] for name in sums}
                spent = {"passes": sum(budget.passes for budget in budgets.values())}
                progress.rows.append({"step": progress.step} | row | spent)
                sums.clear()
                progress.counts.clear()
                write_text(keeping.folder / LOG, log_text(progress.rows))
                _say(bar, progress, steps, time.monotonic() - started)
            if progress.step < steps and (kept.due() or stopping.asked()):
                _check(bad, training)
                progress.seconds = earlier + time.monotonic() - started
                _save(training, kept, progress, budgets, average, sums)
                if stopping.asked():
                    stopping.stop(f"at step {progress.step} of {steps}, state saved in {keeping.folder}")
    bar.close()
    if ema:
        training.modules["student"].load_state_dict({key.removeprefix("ema."): v for key, v in average.items()})
    progress.seconds = earlier
    return progress


def log_text(rows: list[dict[str, float]]) -> str:
    """log.csv: step, the losses in order of appearance, empty where a row has none, and the passes spent so far."""
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name == "passes")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or ["step"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: v if isinstance(v, int) else f"{v:.6g}" for k, v in row.items()} for row in rows)
    return text.getvalue()


def forget(keeping: Keeping) -> None:
    """Removes the state of a run whose result stands, and nothing else of a folder that the user may have chosen."""
    own = [path for path in keeping.folder.glob("*.json") if _recipe(path) == keeping.recipe]
    own += [path for path in keeping.folder.glob("*.part-*") if PARTS.fullmatch(path.name)]
    for path in [keeping.folder / LOG, *own]:
        path.unlink(missing_ok=True)
    Checkpoints(keeping.folder, keeping.seconds).forget()


def _recipe(path: Path) -> str | None:
    """Of what an attack kept for one prompt; None for any other file."""
    try:
        found = read_json(path)
    except UserError:
        return None
    return found.get("recipe") if isinstance(found, dict) else None


def _say(bar: tqdm, progress: Progress, steps: int, seconds: float) -> None:
    row = progress.rows[-1]
    losses = " ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "passes"))
    if bar.disable:
        print(f"step {progress.step}/{steps} {losses} ({seconds:.0f} s)", flush=True)
    else:
        bar.set_postfix_str(losses)


def _check(bad: torch.Tensor, training: Training) -> None:
    """The only sync with the device, so it is done before logging and saving, and at the end."""
    step = int(bad)
    if step >= 0:
        raise UserError(
            f"step {step + 1}: the loss is not finite; lower the learning rate or raise the warm-up, and run again"
        )
    values: list[torch.Tensor] = [p for module in training.modules.values() for p in module.parameters()]
    norms = torch.stack([norm.float().to(bad.device) for norm in torch._foreach_norm(values, float("inf"))])
    if not norms.isfinite().all():
        raise UserError(
            "a weight is not finite though no loss was; lower the learning rate or set clip_norm, and run again"
        )


def _save(
    training: Training,
    kept: Checkpoints,
    progress: Progress,
    budgets: Mapping[str, Budget],
    average: Mapping[str, torch.Tensor],
    sums: Mapping[str, torch.Tensor],
) -> None:
    """One file, its JSON part in the safetensors header: replaced by one rename, so the two can not disagree."""
    progress.budgets = {name: asdict(budget) for name, budget in budgets.items()}
    found = dict(average) | {f"sum.{name}": value for name, value in sums.items()}
    for name, module in training.modules.items():
        found |= {f"module.{name}.{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in training.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{name}.{index}.{key}": value for key, value in moments.items()}
    kept.save(progress.step, found, {"progress": json.dumps(asdict(progress))})


def _load(
    training: Training,
    kept: Checkpoints,
    recipe: str,
    budgets: Mapping[str, Budget],
    average: dict[str, torch.Tensor],
    sums: dict[str, torch.Tensor],
    device: torch.device,
) -> Progress:
    """Fills all of the arguments from the newest checkpoint, in place; a fresh Progress if there is none."""
    path = kept.newest()
    if path is None:
        return Progress(recipe)
    try:
        found = tensors.load(path)
        progress = Progress(**json.loads(tensors.metadata(path)["progress"]))
        if progress.recipe != recipe:
            raise UserError(
                f"{path}: state of recipe {progress.recipe}, not of this run ({recipe}); delete it or give another "
                "--state"
            )
        for name, module in training.modules.items():
            module.load_state_dict(_under(found, f"module.{name}."), strict=True)
        for name, optimizer in training.optimizers.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _under(found, f"optimizer.{name}.").items():
                index, moment = key.split(".", 1)
                state.setdefault(int(index), {})[moment] = value.clone()
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a state of this run ({type(error).__name__}); delete it and run again") from None
    for name, value in average.items():
        value.copy_(found[name])
    sums |= {name: value.to(device) for name, value in _under(found, "sum.").items()}
    for name, budget in budgets.items():
        vars(budget).update(progress.budgets[name])
    print(f"going on from step {progress.step} ({path})", flush=True)
    return progress


def _under(found: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
