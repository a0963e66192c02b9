"""Times, memory and the card's own ceilings."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lethe.models.machine import Machine
from lethe.training.data import generator

MOST = 20  # calls that are timed
LEAST = 3
WIDE = 0.1  # spread between quartiles over the median, from which a time says little


def each(call: Callable[[int], object], numbers: Sequence[int], device: torch.device) -> list[float]:
    """Milliseconds of call(n) for each of the numbers. On a GPU the host never waits in between: its own work counts
    only where the device runs dry, as in a training."""
    if device.type != "cuda":
        found = []
        for number in numbers:
            start = time.perf_counter()
            call(number)
            found.append(1000 * (time.perf_counter() - start))
        return found
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(numbers) + 1)]
    events[0].record()
    for number, event in zip(numbers, events[1:], strict=True):
        call(number)
        event.record()
    torch.cuda.synchronize(device)
    return [one.elapsed_time(other) for one, other in itertools.pairwise(events)]


def warmed(
    call: Callable[[int], object], device: torch.device, seconds: float, turn: int = 1
) -> tuple[float, list[float]]:
    """Calls call(0), call(1), ...: two turns to warm up, then as many as `seconds` allow. Seconds of the first turn,
    which compiles what is compiled, and the milliseconds of each call after the warm-up."""
    numbers, started = itertools.count(), time.monotonic()

    def turns(count: int) -> list[float]:
        return each(call, list(itertools.islice(numbers, count * turn)), device)

    turns(1)
    first = time.monotonic() - started
    once = sum(turns(1))
    return first, turns(min(MOST, max(LEAST, int(1000 * seconds / max(once, 1e-3)))))


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and range in milliseconds, and a word where the spread is too wide."""
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    found: dict[str, Any] = {
        "ms": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "range": [round(min(times), 3), round(max(times), 3)],
        "rounds": len(times),
    }
    if high - low > WIDE * middle:
        found["spread"] = f"{100 * (high - low) / middle:.0f} % between quartiles: does something else run here?"
    return found


def _product(one: torch.Tensor, other: torch.Tensor) -> Callable[[int], torch.Tensor]:
    return lambda _: one @ other


def ceilings(device: torch.device, side: int) -> dict[str, dict[str, object]]:
    """TFLOP/s of a product of two square matrices of random numbers, by number format."""
    draws = generator(0, "ceiling", side)
    left, right = (torch.randn((side, side), generator=draws).to(device) for _ in range(2))
    kinds = {"bfloat16": (torch.bfloat16, "none"), "tf32": (torch.float32, "all"), "float32": (torch.float32, "none")}
    found = {}
    for name, (dtype, tf32) in kinds.items():
        one, other = left.to(dtype), right.to(dtype)
        with Machine(deterministic=False, tf32=tf32).computing():
            _, times = warmed(_product(one, other), device, 1.0)
        rate = float(f"{2 * side**3 / statistics.median(times) / 1e9:.4g}")  # never 0, however slow
        found[name] = {"side": side, "tflops": rate} | summary(times)
    return found


class Memory:
    """Peak memory of a piece of work on the device in GiB, what stood there before apart; None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.before = device.type == "cuda", 0
        if self.cuda:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)

    def peak(self) -> float | None:
        return round((torch.cuda.max_memory_allocated() - self.before) / 2**30, 2) if self.cuda else None
