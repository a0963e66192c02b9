"""How a machine computes a network: choices that change speed, memory and last bits, and nothing else.

What each of them brings is measured side by side by `python -m stages.bench`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lethe.models.cutting import channels
from lethe.models.unets import hook_blocks

CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

# (weights or None, latents, t, text) -> (prediction, hidden states by block)
Run = Callable[[dict[str, Tensor] | None, Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Machine:
    """The choices. As they stand here, a stage computes on a GPU as it did before there were any."""

    deterministic: bool = True  # the same bits twice, where torch has a way to
    strict: bool = False  # with deterministic: an error where it has none; attention's backward keeps its bits only so
    tf32: str = "none"  # where float32 may drop mantissa bits: none, convolutions (torch's own default), all
    channels_last: bool = False
    cast: str = "use"  # where training in bfloat16 casts its float32 weights: at each use (autocast), or once a step
    multiple: int = 1  # what a feed-forward's width is filled up to with zeros; pruning leaves odd ones
    attention: str = "default"  # or cudnn: its kernels before the others
    backend: str | None = None  # of torch.compile; None runs eagerly

    @contextmanager
    def computing(self) -> Iterator[None]:
        """torch's switches as these choices want them, and back as they were."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
        strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        attention = sdpa_kernel(CUDNN_FIRST, set_priority=True) if self.attention == "cudnn" else nullcontext()
        try:
            torch.use_deterministic_algorithms(self.deterministic, warn_only=not self.strict)
            cudnn.benchmark, cudnn.deterministic = not self.deterministic, self.deterministic
            cudnn.allow_tf32, matmul.allow_tf32 = self.tf32 != "none", self.tf32 == "all"
            with attention:
                yield
        finally:
            torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


class Fitted(nn.Module):
    """A U-Net as a machine computes it: parameters, state and all else are the network's own.

    Called as the U-Net is, it answers (prediction,). One that is `tapped` can tell the hidden states after its blocks
    too (see `tapping`). With `cast: step` the network's weights stay float32 and are what gradients go to; it is
    computed with bfloat16 copies of them, which are made anew when the weights have changed.
    """

    def __init__(self, net: nn.Module, machine: Machine, tapped: bool = False) -> None:
        super().__init__()
        self.layout = torch.channels_last if machine.channels_last else torch.contiguous_format
        self.net = nn.Module.to(net, memory_format=self.layout)  # diffusers' own .to() warns
        self.plan = Cast(net, machine.multiple, self.layout) if machine.cast == "step" else None
        self.taps: dict[str, Tensor] | None = None
        run = _runner(self.plan.shadow if self.plan else net, tapped)
        self.run: Run = torch.compile(run, backend=machine.backend, dynamic=False) if machine.backend else run

    def forward(
        self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        latents = latents.to(memory_format=self.layout)
        if self.plan is None:
            output, found = self.run(None, latents, t, encoder_hidden_states)
        else:
            half = latents.to(torch.bfloat16), t, encoder_hidden_states.to(torch.bfloat16)
            with torch.autocast(latents.device.type, enabled=False):
                output, found = self.run(self.plan.weights(), *half)
        if self.taps is not None:
            self.taps.update(found)
        return (output,)

    @contextmanager
    def tapping(self, found: dict[str, Tensor]) -> Iterator[None]:
        """Within, each call puts the hidden states after the blocks into `found`, by the blocks' names."""
        self.taps = found
        try:
            yield
        finally:
            self.taps = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


def _runner(net: nn.Module, tapped: bool) -> Run:
    """One call of the network as a function that compiles whole.

    Its hooks stay, since a compiled function is made of the hooks that it met.
    """
    kept: list[Tensor] = []
    names = [name for name, _ in hook_blocks(net)] if tapped else []

    def keep(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    for _, module in hook_blocks(net) if tapped else []:
        module.register_forward_hook(keep)

    def run(
        weights: dict[str, Tensor] | None, latents: Tensor, t: Tensor, text: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kept.clear()
        inputs, how = (latents, t, text), {"return_dict": False}
        output = net(*inputs, **how)[0] if weights is None else functional_call(net, weights, inputs, how)[0]
        found = dict(zip(names, kept, strict=True))
        kept.clear()
        return output, found

    return run


class Cast:
    """bfloat16 copies of a network's float32 parameters, in the shapes of a copy with widened feed-forwards."""

    def __init__(self, net: nn.Module, multiple: int, layout: torch.memory_format) -> None:
        self.masters = dict(net.named_parameters())
        self.shadow = nn.Module.to(copy.deepcopy(net), torch.bfloat16)
        self.parts = widen(self.shadow, multiple)
        nn.Module.to(self.shadow, memory_format=layout).requires_grad_(False)
        self.wide = {name: parameter.detach() for name, parameter in self.shadow.named_parameters()}
        self.versions: list[int] = []

    def weights(self) -> dict[str, Tensor]:
        """The copies by name, with a graph to the parameters."""
        return dict(zip(self.masters, _Casting.apply(self, *self.masters.values()), strict=True))

    def refresh(self) -> None:
        """Copies what changed since the last time: a second forward of one graph must find the first one's weights."""
        versions = [master._version for master in self.masters.values()]
        if versions != self.versions:
            self._copy({name: master.detach() for name, master in self.masters.items()}, self.wide)
            self.versions = versions

    def narrowed(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Gradients of the copies -> of the parameters, float32."""
        found = {name: torch.empty_like(master) for name, master in self.masters.items()}
        pairs = zip(self.wide.items(), gradients, strict=True)
        self._copy({name: torch.zeros_like(wide) if own is None else own for (name, wide), own in pairs}, found)
        return list(found.values())

    def _copy(self, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """In one kernel for all that have the same shape on both sides, and one each for the others."""
        for names in (self.masters.keys() - self.parts.keys(), self.parts.keys()):
            into, values = ([self._part(name, tensors[name]) for name in names] for tensors in (target, source))
            if names:
                torch._foreach_copy_(into, values)

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        """What of a wide tensor the narrow one fills; of the narrow one, all, in the same shape."""
        if name not in self.parts:
            return tensor
        halves, width = self.parts[name]
        return tensor.unflatten(0, (halves, -1))[:, :width] if halves else tensor[:, :width]


class _Context(Protocol):
    """What a backward pass finds of its forward pass."""

    plan: Cast


class _Casting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, plan: Cast, *masters: Tensor) -> tuple[Tensor, ...]:
        plan.refresh()
        ctx.plan = plan
        return tuple(wide.detach() for wide in plan.wide.values())

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.plan.narrowed(gradients)


@torch.no_grad()
def widen(net: nn.Module, multiple: int) -> dict[str, tuple[int, int]]:
    """Fills the feed-forwards of a network up to a multiple of neurons, in place, with zeros: the answer is the same.

    Matrix products run at full speed only at widths that are multiples of eight in bfloat16. Returns for each parameter
    that grew (halves, width): the first `width` rows of each of its `halves`, or, with 0, its first `width` columns.
    """
    parts = {}
    for path, module in net.named_modules():
        more = -(width := channels(module, "ffn")) % multiple if type(module) is FeedForward else 0
        if not more:
            continue
        first, last = module.net[0].proj, module.net[2]
        halves = len(first.weight) // width
        for name, old in list(first.named_parameters()):
            wide = F.pad(old.unflatten(0, (halves, width)), [0, 0] * (old.dim() - 1) + [0, more]).flatten(0, 1)
            setattr(first, name, nn.Parameter(wide, requires_grad=old.requires_grad))
            parts[f"{path}.net.0.proj.{name}"] = halves, width
        last.weight = nn.Parameter(F.pad(last.weight, [0, more]), requires_grad=last.weight.requires_grad)
        parts[f"{path}.net.2.weight"] = 0, width
        first.out_features, last.in_features = len(first.weight), last.weight.shape[1]
    return parts
