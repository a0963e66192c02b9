"""Variations of pictures, drawn on the device: shifts, sizes, mirror images, backgrounds, blur.

Pictures come as uint8 [B, side, side, 4], RGBA. What comes out is float32 [B, 3, side, side] in [-1, 1].
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BACKGROUNDS = {
    "red": (244, 143, 137),
    "blue": (144, 190, 245),
    "green": (160, 219, 160),
    "yellow": (250, 228, 130),
    "purple": (206, 168, 230),
    "gray": (190, 190, 190),
}
WHITE = 0  # a background's number; those above follow from 1


@dataclass(frozen=True)
class How:
    """How far variations go."""

    shift: int = 2  # pixels to each side, whole ones, so that lines stay sharp
    scale: tuple[float, float] | None = None  # with sizes, shifts are in fractions of a pixel
    flip: float = 0.0  # share of mirror images
    backgrounds: float = 0.0  # share of pictures on a background other than white
    blur: float = 0.0  # share of blurred pictures
    noise: float = 0.0  # deviation of what is added to each pixel


CRISP = How(shift=2)
DRAWN = How(shift=4, flip=0.5, backgrounds=0.25)  # for the autoencoder: lines stay sharp
ROUGH = How(shift=5, scale=(0.8, 1.1), flip=0.5, backgrounds=0.2, blur=0.3, noise=0.03)  # for those that judge


@functools.cache
def palette(device: torch.device) -> Tensor:
    """float32 [1 + len(BACKGROUNDS), 3] in [0, 1]: white, then the others."""
    return torch.tensor([(255, 255, 255), *BACKGROUNDS.values()], device=device) / 255


def backgrounds(count: int, share: float, g: torch.Generator) -> Tensor:
    """Numbers of backgrounds [count]: WHITE, or any other in `share` of the rows."""
    device = g.device
    other = torch.randint(1, 1 + len(BACKGROUNDS), (count,), generator=g, device=device)
    return torch.where(torch.rand(count, generator=g, device=device) < share, other, WHITE)


def vary(pictures: Tensor, g: torch.Generator, how: How, ground: Tensor | None = None) -> Tensor:
    """Each picture varied on its own. `ground`: numbers of backgrounds, drawn if not given."""
    count, side, device = len(pictures), pictures.shape[1], pictures.device
    ground = backgrounds(count, how.backgrounds, g) if ground is None else ground
    rgba = pictures.permute(0, 3, 1, 2).float() / 255
    x = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)  # premultiplied: edges stay clean
    if how.scale:
        low, high = how.scale
        size = low + (high - low) * torch.rand(count, generator=g, device=device)
        move = (2 * torch.rand(count, 2, generator=g, device=device) - 1) * how.shift
    else:
        size = torch.ones(count, device=device)
        move = torch.randint(-how.shift, how.shift + 1, (count, 2), generator=g, device=device).float()
    turned = torch.where(torch.rand(count, generator=g, device=device) < how.flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = turned / size, 1 / size
    theta[:, :, 2] = move * 2 / side
    grid = F.affine_grid(theta, [count, 4, side, side], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear" if how.scale else "nearest", align_corners=False)
    x = x[:, :3] + (1 - x[:, 3:]) * palette(device)[ground][:, :, None, None]
    if how.blur:
        soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        weight = torch.rand(count, 1, 1, 1, generator=g, device=device)
        weight = weight * (torch.rand(count, 1, 1, 1, generator=g, device=device) < how.blur)
        x = torch.lerp(x, soft, weight)
    x = 2 * x - 1
    if how.noise:
        x = x + how.noise * torch.randn(x.shape, generator=g, device=device)
    return x.clamp(-1, 1)
