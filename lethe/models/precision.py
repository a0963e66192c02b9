"""The numbers that a U-Net is kept and computed in when it draws: what a deployed copy of it would do.

`bfloat16`, `float16`: weights and arithmetic of the U-Net in that type. `int8`, `int4`: its weights alone are rounded
to integers of 8 or 4 bits times a step; activations and arithmetic stay float32. The rounding is symmetric and to the
nearest: w is s q, with s = 2 max|w| / (2^b - 1) over the weights that share a step, and q in -2^(b-1) .. 2^(b-1) - 1;
no weight moves by more than s / 2. A step is shared by the input channels of one output channel, at one place of a
convolution's kernel: by all of them in 8 bits, by 32 at a time in 4. That is torchao's `IntxWeightOnlyConfig` (0.18,
`PerAxis(0)` and `PerGroup(32)`), bit for bit; a last group that pruning left short, which torchao refuses, has a step
of its own. torchao itself is not used: its 4-bit kernels want CUDA, its 8-bit ones and diffusers' quantisers take no
convolutions, and once installed it is imported, with warnings, by every `import diffusers`.

Rounded are all linear and convolutional layers but the first and the last (`conv_in`, `conv_out`), which are small and
which quantisation treats apart (Q-Diffusion, 2302.04304); norms and biases stay float32. The rounded weights are
multiplied out again before drawing, so this shows what deployment does to pictures, not to speed; `stored` counts the
bytes that such a U-Net takes when its integers are packed.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from lethe.files.errors import UserError

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BITS = {"int8": 8, "int4": 4}
NAMES = ("float32", *HALF, *BITS)
GROUP = 32  # input channels that share a step in 4 bits
EXACT = ("conv_in", "conv_out")


class Half(nn.Module):
    """A copy of a U-Net that computes in half precision; what goes in and comes out is float32."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.config = unet.config
        self.unet = nn.Module.to(copy.deepcopy(unet), dtype)  # diffusers' own .to() warns

    def forward(
        self, latents: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        latents, text = latents.to(self.dtype), encoder_hidden_states.to(self.dtype)
        return (self.unet(latents, t, encoder_hidden_states=text, return_dict=False)[0].float(),)


def applied(unet: nn.Module, precision: str) -> nn.Module:
    """A U-Net that draws in this precision: itself for float32, else a copy. Raises UserError for an unknown one."""
    if precision == "float32":
        return unet
    if precision in HALF:
        return Half(unet, HALF[precision])
    if precision not in BITS:
        raise UserError(f"sample.precision: {precision!r} is not one of {', '.join(NAMES)}")
    made = copy.deepcopy(unet)
    for layer in rounded(made):
        layer.weight = nn.Parameter(multiplied(*quantised(layer.weight, BITS[precision])), requires_grad=False)
    return made


def rounded(unet: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The layers whose weights `int8` and `int4` round."""
    return [m for name, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and name not in EXACT]


def group(channels: int, bits: int) -> int:
    """How many of a layer's input channels share a step."""
    return min(GROUP, channels) if bits == 4 else channels


@torch.no_grad()
def quantised(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [out, in, ...] -> integers, int8 of that shape, and the steps, float32 [out, groups, ...].

    A group of nothing but zeros has the smallest step that is a normal number, and stays zero.
    """
    size = group(weight.shape[1], bits)
    grouped = _grouped(weight.float(), size)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    steps = grouped.abs().amax(2) / ((most - least) / 2)
    steps = steps.clamp(min=torch.finfo(torch.float32).smallest_normal)
    whole = torch.round(grouped * (1 / steps).unsqueeze(2)).clamp(least, most).to(torch.int8)
    return whole.flatten(1, 2)[:, : weight.shape[1]], steps


def multiplied(whole: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Integers [out, in, ...] times the steps [out, groups, ...] of their groups: weights, float32."""
    size = whole.shape[1] if steps.shape[1] == 1 else GROUP
    return (_grouped(whole.float(), size) * steps.unsqueeze(2)).flatten(1, 2)[:, : whole.shape[1]].contiguous()


def _grouped(values: torch.Tensor, size: int) -> torch.Tensor:
    """[out, in, ...] -> [out, groups, size, ...], the last group filled up with zeros."""
    missing = -values.shape[1] % size
    filled = F.pad(values, [0, 0] * (values.dim() - 2) + [0, missing])
    return filled.unflatten(1, (-1, size))


def stored(unet: nn.Module, precision: str) -> int:
    """Bytes that a float32 U-Net's parameters take in a precision, integers packed, with the steps of their groups."""
    count = sum(parameter.numel() for parameter in unet.parameters())
    if precision in HALF:
        return 2 * count
    total = 4 * count
    for layer in rounded(unet) if precision in BITS else []:
        weight, bits = layer.weight, BITS[precision]
        steps = weight.numel() // weight.shape[1] * -(-weight.shape[1] // group(weight.shape[1], bits))
        packed = -(-weight.numel() * bits // 8)
        total += packed + 4 * steps - 4 * weight.numel()
    return total
