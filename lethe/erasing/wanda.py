"""Which weights of a linear layer serve one set of prompts more than another: Wanda scores (2306.11695 eq. 1)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def linears(module: nn.Module, end: str) -> dict[str, nn.Linear]:
    """Linear layers whose path ends in `end`, such as "ff.net.2", in the order of the net."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and f".{name}".endswith(f".{end}")
    }


@contextmanager
def listening(layers: Mapping[str, nn.Linear], steps: int) -> Iterator[tuple[dict[str, Tensor], Callable]]:
    """Gives {layer: [steps, columns]} float32 and `at(step)`, which says whose turn it is.

    Inside the context every input X of a layer, [..., columns], adds to the row of the current step the column sums of
    squares of X with its rows L2-normalised: the squared norm of Wanda. It is summed on the device as X comes, and no
    input is kept. Hooks live only inside the context.
    """
    sums = {
        name: layer.weight.new_zeros((steps, layer.weight.shape[1]), dtype=torch.float32)
        for name, layer in layers.items()
    }
    now = [0]

    def listen(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].detach().flatten(0, -2).float().square()
            sums[name][now[0]] += squares.sum(1).clamp_min(1e-24).reciprocal() @ squares

        return hook

    def at(step: int) -> None:
        now[0] = step

    handles = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    try:
        yield sums, at
    finally:
        for handle in handles:
            handle.remove()


def highest(share: float, columns: int, rounded: bool = False) -> int:
    """How many weights of a row are its highest: a share cut to an integer, or rounded and at least one."""
    return max(1, round(share * columns)) if rounded else int(share * columns)


@torch.no_grad()
def serving(weight: Tensor, target: Tensor, base: Tensor, share: float, least: float, rounded: bool = False) -> Tensor:
    """Mask [rows, columns] of the weights that serve the target prompts in more than `least` of the steps.

    `target` and `base` [steps, columns] are column norms A. In a step a weight serves if its score |W| A_target is
    among the highest `share` of its row's, and above |W| A_base (2405.19237 eq. 5, 6). As in its released code the
    share is cut to an integer, so that a row of fewer than 1 / share columns has none that serves.
    """
    size = weight.detach().abs().float()
    count = highest(share, size.shape[1], rounded)
    times = torch.zeros_like(size)
    for own, other in zip(target, base, strict=True):
        scores, columns = (size * own).topk(count, dim=1, sorted=False)
        above = scores > size.gather(1, columns) * other[columns]
        times.scatter_add_(1, columns, above.float())
    return times > least * len(target)
