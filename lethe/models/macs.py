"""Multiply-accumulates of a U-Net at the size it is used at.

One picture, one forward pass. Convolutions, linear layers and both matrix products of attention count; with k keys and
q queries of width d, attention costs 2*q*k*d, with the true number of keys in cross-attention (the text length).
Biases, norms and activations do not count. That is `count_macs`, and what a budget is a share of.

`released_macs` is what the counter printed with which the published budgets were measured (that of arXiv 2412.15341 and
APTP, 2406.12042). It differs by more than a factor, so that one and the same cut is another share there:

- attention, of N queries and width d in H heads, costs 2 N^2 d + H N^2, whatever it attends to
- the text has one token
- biases count: one a convolution's output value, but one an output channel of a linear layer, however many rows it has
- norms: 2 a value of a GroupNorm, 1 a value of a LayerNorm; feed-forwards' GELU: nothing
- SiLU: 2 a value, times the number of places in the net where one stands: all were one object, counted at each place

A pass costs no arithmetic, but some seconds of Python. Counts follow from a net's structure: each is counted once a
process.
"""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from diffusers.models.attention_processor import Attention
from torch import Tensor, device, nn, zeros
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

T = TypeVar("T")
_known: dict[tuple, Any] = {}  # what was counted of a structure
COUNTED = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.SiLU, Attention)  # by the released counter


def count_macs(unet: "UNet2DConditionModel", latent_shape: tuple[int, int, int], text_length: int) -> int:
    """MACs of one forward pass on a [1, C, h, w] latent with [1, L, D] caption embeddings."""
    return macs_by_module(unet, latent_shape, text_length)[""]


def macs_by_module(
    unet: "UNet2DConditionModel", latent_shape: tuple[int, int, int], text_length: int
) -> dict[str, int]:
    """MACs by module path; "" is the whole net. A module's count includes its children's."""
    return dict(_once(trace, unet, latent_shape, text_length))


def released_macs(unet: "UNet2DConditionModel", latent_shape: tuple[int, int, int]) -> int:
    """The same forward pass as the released counter has it; see above."""
    return _once(trace_released, unet, latent_shape, 1)


def _once(count: Callable[..., T], unet: "UNet2DConditionModel", latent_shape: tuple, text_length: int) -> T:
    """What `count` finds in a forward pass, counted once for all nets of the same structure."""
    shapes = tuple((name, tuple(value.shape)) for name, value in unet.named_parameters())
    heads = tuple(part.heads for part in unet.modules() if isinstance(part, Attention))
    key = (count.__name__, repr(sorted(unet.config.items())), shapes, heads, tuple(latent_shape), text_length)
    if key not in _known:
        meta, width = device("meta"), unet.config.cross_attention_dim  # shapes alone: no arithmetic, whatever the size
        latent, text = zeros(1, *latent_shape, device=meta), zeros(1, text_length, width, device=meta)
        _known[key] = count(unet, latent, zeros(1, device=meta), text)
    return _known[key]


def trace_released(module: nn.Module, *inputs: object) -> int:
    """What the released counter finds in one call of any module on inputs that live on the meta device."""
    found: dict[type, int] = dict.fromkeys(COUNTED, 0)

    def count(part: nn.Module, values: tuple[Tensor, ...], output: Tensor) -> None:
        found[type(part)] += _released(part, values[0] if values else output, output)

    hooks = [part.register_forward_hook(count) for part in module.modules() if type(part) in COUNTED]
    try:
        _call(module, *inputs)
    finally:
        for hook in hooks:
            hook.remove()
    places = sum(type(part) is nn.SiLU for _, part in module.named_modules(remove_duplicate=False))
    return sum(found.values()) + (places - 1) * found[nn.SiLU]


def _released(part: nn.Module, values: Tensor, output: Tensor) -> int:
    """A layer's own operations in one call; an attention's products and softmax, without its linear layers."""
    if isinstance(part, nn.Conv2d):
        return part.weight[0].numel() * output.numel() + (output.numel() if part.bias is not None else 0)
    if isinstance(part, nn.Linear):
        return values.numel() * part.out_features + (part.out_features if part.bias is not None else 0)
    if isinstance(part, Attention):
        queries = output.shape[1] if output.dim() == 3 else prod(output.shape[2:])
        return queries**2 * (2 * part.to_q.out_features + part.heads)
    return values.numel() * (1 if isinstance(part, nn.LayerNorm) else 2)


def trace(module: nn.Module, *inputs: object) -> dict[str, int]:
    """MACs by module path of one call of any module on inputs that live on the meta device."""
    # the math backend spells attention out as matrix products, which the counter sees on every device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _call(module, *inputs)
    root = type(module).__name__
    counts = {"": counter.get_total_flops() // 2}
    for name, flops in counter.get_flop_counts().items():
        if name.startswith(f"{root}."):
            counts[name.removeprefix(f"{root}.")] = sum(flops.values()) // 2
    return counts


def _call(module: nn.Module, *inputs: object) -> None:
    """One call on the meta device, wherever the module's weights are."""
    state = {name: value.to("meta") for name, value in (*module.named_parameters(), *module.named_buffers())}
    functional_call(module, state, inputs)


def count_params(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
