"""Latent re-attention (SAFREE, arXiv 2410.12761, eqs. 7 and 8): what a changed prompt makes louder than the prompt
itself does is damped, in the low frequencies of the features that skip connections bring to a U-Net's up blocks.

With h(e~) the features of a skip connection under the changed prompt, h(e) those of the same latents under the prompt
as it is, and b the frequencies -1 and 0 of either axis, four in all:

    F_i = s FFT(h(e~))_i  where b_i = 1 and |FFT(h(e~))_i| > |FFT(h(e))_i|,  else FFT(h(e~))_i
    h'  = the real part of the inverse FFT of F

s is 0.9 where the features that it is joined to are as wide as the net's widest stage, 0.2 where as wide as the next,
and 1 elsewhere: those, the four frequencies, and the place, are FreeU's (2309.11497), whose helper the released code
uses; its factors of the other features are 1 there. The paper's > of complex numbers is read as one of magnitudes. Four
sums are all that a transform of four frequencies takes, so a row's bits do not depend on its neighbours.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from lethe.models.dropped import DroppedResnet

SCALES = (0.9, 0.2)  # of the widest stage and of the next
FREQUENCIES = (-1, 0)


def damped(changed: Tensor, plain: Tensor, scale: float) -> Tensor:
    """h' [B, C, h, w] of the features under the changed prompt, and under the plain one."""
    found = changed.float()
    for sums, waves in _pairs(found, plain.float()):
        (cosine, sine), (other_cosine, other_sine) = sums
        louder = cosine.square() + sine.square() > other_cosine.square() + other_sine.square()
        lost = torch.where(louder, 1 - scale, 0.0) / math.prod(changed.shape[-2:])
        found = found - lost * (cosine * waves[0] + sine * waves[1])
    return found.to(changed.dtype)


def _pairs(changed: Tensor, plain: Tensor) -> Iterator[tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]]:
    """For each frequency both features' sums with its cosine and sine [B, C, 1, 1], and these waves [h, w]."""
    height, width = changed.shape[-2:]
    rows, columns = (torch.arange(size, device=changed.device) / size for size in (height, width))
    for down, across in product(*({frequency % size: 0 for frequency in FREQUENCIES} for size in (height, width))):
        angle = 2 * math.pi * (down * rows[:, None] + across * columns)
        waves = angle.cos(), angle.sin()
        yield [_sums(one, waves) for one in (changed, plain)], waves


def _sums(values: Tensor, waves: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    cosine, sine = ((values * wave).sum((-2, -1), keepdim=True) for wave in waves)
    return cosine, sine


def places(unet: nn.Module) -> list[tuple[nn.Module, int, float]]:
    """(residual block of an up block, channels that it gets before those of its skip connection, s), where s < 1."""
    net: Any = next(part for part in unet.modules() if hasattr(part, "up_blocks"))
    stages = dict(zip(sorted(set(net.config.block_out_channels), reverse=True), SCALES, strict=False))
    found: list[tuple[nn.Module, int, float]] = []
    width = net.config.block_out_channels[-1]
    for block in net.up_blocks:
        for part in block.resnets:
            if width in stages and not isinstance(part, DroppedResnet):
                found.append((part, width, stages[width]))
            width = part.channels if isinstance(part, DroppedResnet) else part.out_channels
    return found


class Reattention:
    """Hooks in a U-Net that act only inside `damping`, and only on the thread that is inside."""

    def __init__(self, unet: nn.Module):
        self.here = threading.local()
        self.hooks = [part.register_forward_pre_hook(self._hook(width, s)) for part, width, s in places(unet)]

    @contextmanager
    def damping(self, acting: Tensor, first: int) -> Iterator[None]:
        """The U-Net is called with B rows of the changed prompt from row `first` on, then B of the plain. `acting` [B]
        bool: where the prompt is a changed one; elsewhere both are equal but for rounding, and nothing is damped."""
        self.here.rows, self.here.acting = range(first, first + len(acting)), acting.view(-1, 1, 1, 1)
        try:
            yield
        finally:
            self.here.rows = None

    def remove(self) -> None:
        """Takes the hooks out."""
        for hook in self.hooks:
            hook.remove()

    def _hook(self, width: int, scale: float) -> Callable:
        def hook(_part: nn.Module, inputs: tuple) -> tuple | None:
            rows = getattr(self.here, "rows", None)
            if not rows:
                return None
            values, *more = inputs
            changed, plain = (values[i : i + len(rows), width:] for i in (rows.start, rows.stop))
            values = values.clone()
            values[rows.start : rows.stop, width:] = torch.where(
                self.here.acting, damped(changed, plain, scale), changed
            )
            return values, *more

        return hook
