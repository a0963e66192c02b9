"""One training on any device: on a GPU each step is one CUDA graph, and the number of steps can follow a time.

A job draws a batch from a generator seeded by (seed, step), all of it on the device, and computes one step of it. Only
the drawing is done anew for each step; forward, backward, clipping and the optimisers are recorded once and replayed,
since such small networks are bound by the launching of kernels. Where recording fails the step is taken plainly.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lethe.files.errors import needed
from lethe.files.io import digest, read_json, write_json
from lethe.pretraining.losses import cosine
from lethe.training import loop
from lethe.training.finetune import adamw

WARM = 5  # steps before recording: libraries choose their kernels, optimisers make their moments
TIMED = {"cuda": 40, "cpu": 1}
FEWEST = 5  # steps, however short the time
CHECKPOINT_SECONDS = 120.0
PACE = "pace.json"

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Job:
    """What is trained, and how.

    `modules`: all that steps change; "student" is the one that may be averaged, and its device is that of the job.
    `rates`: highest learning rate of each of `optimizers`. `compute` takes the step and returns losses, detached.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.AdamW]
    rates: Mapping[str, float]
    draw: Callable[[torch.Generator], Batch]
    compute: Callable[[Batch], dict[str, Tensor]]
    warmup: int = 100
    ema: float | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.modules["student"].parameters()).device


@dataclass(frozen=True)
class Pace:
    """How long a job may go on: a number of steps, or seconds from which that number is found once."""

    steps: int | None = None
    seconds: float | None = None
    graphs: bool = True


def optimizer(
    parameters: list[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.AdamW:
    """AdamW that a CUDA graph can hold: its learning rate and step count lie on the device."""
    if parameters[0].device.type != "cuda":
        made = adamw(parameters, lr, weight_decay)
        made.param_groups[0]["betas"] = betas
        return made
    rate = torch.tensor(lr, device=parameters[0].device)
    return torch.optim.AdamW(parameters, rate, betas, weight_decay=weight_decay, fused=True, capturable=True)


def amp(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU. Without autocast's cache of cast weights, which a graph must not keep."""
    return torch.autocast(device.type, torch.bfloat16, device.type == "cuda", cache_enabled=False)


def plain(
    module: nn.Module,
    draw: Callable[[torch.Generator], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    lr: float,
    weight_decay: float = 0.01,
    warmup: int = 100,
    ema: float | None = None,
) -> Job:
    """The job of one module, one loss, gradient norm at most 1."""
    made = optimizer([p for p in module.parameters() if p.requires_grad], lr, weight_decay)

    def compute(batch: Batch) -> dict[str, Tensor]:
        made.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        made.step()
        return {"loss": value.detach().float()}

    return Job({"student": module}, {"adam": made}, {"adam": lr}, draw, compute, warmup, ema)


def train(job: Job, pace: Pace, seed: int, folder: Path) -> dict[str, object]:
    """Trains, going on from the state in `folder` if there is one; tells steps, seconds a step, first and last losses.

    The number of steps is decided once and kept in the folder, so that a run that was killed goes on to the same.
    """
    started = time.monotonic()
    device = job.device
    with _fast(device):
        step = _Step(job, pace.graphs)
        told = folder / PACE
        if told.is_file():
            steps = read_json(told)["steps"]
        elif pace.steps is not None:
            steps = pace.steps
        else:
            taken = _seconds_a_step(job, step, seed)
            left = needed(pace.seconds, "number of steps or of seconds") - (time.monotonic() - started)
            steps = max(FEWEST, int(left / taken))
        write_json(told, {"steps": steps})
        warmup = min(job.warmup, steps // 5 or 1)

        def one(k: int) -> dict[str, Tensor]:
            for name, optim in job.optimizers.items():
                _set_rate(optim, cosine(job.rates[name], warmup, k, steps))
            return step(job.draw(generator(device, seed, k)))

        keeping = loop.Keeping(folder, digest([folder.name, steps, seed, job.ema]), CHECKPOINT_SECONDS)
        ema = None if job.ema is None else min(job.ema, 1 - 10 / max(steps, 20))
        progress = loop.run(loop.Training(one, job.modules, job.optimizers), steps, keeping, {}, ema)
        loop.forget(keeping)
        told.unlink(missing_ok=True)
    taken = time.monotonic() - started
    return {
        "steps": steps,
        "seconds": round(taken, 1),
        "graphs": step.graphs,
        "first": {key: round(value, 5) for key, value in progress.rows[0].items() if key != "passes"},
        "last": {key: round(value, 5) for key, value in progress.rows[-1].items() if key != "passes"},
    }


def generator(device: torch.device, seed: int, k: int) -> torch.Generator:
    """The generator of one step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + k)


def _set_rate(optim: torch.optim.Optimizer, rate: float) -> None:
    group = optim.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@contextlib.contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """cuDNN may try which kernel is fastest: shapes never change."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        yield


@contextlib.contextmanager
def _untouched(job: Job) -> Iterator[None]:
    """Steps taken within leave no trace: weights, buffers and moments are as before, at the same addresses."""
    weights = [(value, value.clone()) for module in job.modules.values() for value in module.state_dict().values()]
    moments = [(value, value.clone()) for optim in job.optimizers.values() for value in _moments(optim)]
    try:
        yield
    finally:
        with torch.no_grad():
            for optim in job.optimizers.values():
                for value in _moments(optim):
                    value.zero_()  # fresh ones begin at zero
            for value, old in weights + moments:
                value.copy_(old)


def _moments(optim: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optim.state.values() for value in state.values()]


class _Step:
    """The job's step. On a GPU it is recorded when it is first taken: only then have checkpoints been read."""

    def __init__(self, job: Job, graphs: bool) -> None:
        self.job = job
        self.graphs = graphs and job.device.type == "cuda"
        self.replay: Callable[[Batch], dict[str, Tensor]] | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if not self.graphs:
            return self.job.compute(batch)
        if self.replay is None:
            try:
                with _untouched(self.job):
                    self.replay = _recorded(self.job, batch)
            except Exception as error:  # whatever a driver or library objects to: a plain step is as good, only slower
                told = " ".join(str(error).split())[:300]
                print(f"no CUDA graph ({type(error).__name__}: {told}); plain steps", flush=True)
                self.graphs = False
                torch.cuda.synchronize()
                return self.job.compute(batch)
        return self.replay(batch)


def _recorded(job: Job, batch: Batch) -> Callable[[Batch], dict[str, Tensor]]:
    """One CUDA graph of `job.compute`, fed through a batch that stays where it is."""
    held = {key: value.clone() for key, value in batch.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            job.compute(held)
    torch.cuda.current_stream().wait_stream(side)
    for optim in job.optimizers.values():
        optim.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = job.compute(held)

    def replay(given: Batch) -> dict[str, Tensor]:
        for key, value in given.items():
            held[key].copy_(value)
        graph.replay()
        return {key: value.clone() for key, value in losses.items()}

    return replay


def _seconds_a_step(job: Job, step: _Step, seed: int) -> float:
    """Time of a step with all that the loop does around it."""
    cuda = job.device.type == "cuda"
    student = job.modules["student"]
    average = {key: value.clone() for key, value in student.state_dict().items()}
    count = TIMED["cuda" if cuda else "cpu"]
    with _untouched(job):
        for k in range(count + 2):  # the first is recorded, if it can be
            if k == 2:
                torch.cuda.synchronize() if cuda else None
                started = time.monotonic()
            losses = step(job.draw(generator(job.device, seed, k)))
            torch.stack(list(losses.values())).isfinite().all()
            if job.ema:
                torch._foreach_lerp_(list(average.values()), list(student.state_dict().values()), 0.01)
        torch.cuda.synchronize() if cuda else None
        return (time.monotonic() - started) / count
