"""Multiply-accumulates of a U-Net at the size it is used at.

One picture, one forward pass. Convolutions, linear layers and both matrix products of attention count; with k keys and
q queries of width d, attention costs 2*q*k*d, with the true number of keys in cross-attention (the text length).
Biases, norms and activations do not count.
"""

from typing import TYPE_CHECKING

from torch import device, nn, zeros
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def count_macs(unet: "UNet2DConditionModel", latent_shape: tuple[int, int, int], text_length: int) -> int:
    """MACs of one forward pass on a [1, C, h, w] latent with [1, L, D] caption embeddings."""
    return macs_by_module(unet, latent_shape, text_length)[""]


def macs_by_module(
    unet: "UNet2DConditionModel", latent_shape: tuple[int, int, int], text_length: int
) -> dict[str, int]:
    """MACs by module path; "" is the whole net. A module's count includes its children's."""
    width = unet.config.cross_attention_dim
    meta = device("meta")  # shapes alone: no arithmetic is done, whatever the size
    return trace(
        unet,
        zeros(1, *latent_shape, device=meta),
        zeros(1, device=meta),
        zeros(1, text_length, width, device=meta),
    )


def trace(module: nn.Module, *inputs: object) -> dict[str, int]:
    """MACs by module path of one call of any module on inputs that live on the meta device."""
    state = {name: value.to("meta") for name, value in (*module.named_parameters(), *module.named_buffers())}
    # the math backend spells attention out as matrix products, which the counter sees on every device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        functional_call(module, state, inputs)
    root = type(module).__name__
    counts = {"": counter.get_total_flops() // 2}
    for name, flops in counter.get_flop_counts().items():
        if name.startswith(f"{root}."):
            counts[name.removeprefix(f"{root}.")] = sum(flops.values()) // 2
    return counts


def count_params(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
