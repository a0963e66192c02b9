"""Training states from a network's own sampling: x_t at random steps of DDIM trajectories, and its answers there.

Since the x_t of a frozen network depend on that network alone, trajectories need not be drawn anew for every optimiser
step: one batch of full trajectories, a window, serves `reuse` steps, each taking for every row another random step of
its trajectory. And since guidance has the network answer to the empty prompt and to the text at every state anyway,
these answers are kept: they cost no forwards beside the trajectories'. A window is a pure function of the network, the
seed and the window's number, so a run that was stopped draws it again as it was.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from lethe.stage.record import Budget
from lethe.training.data import generator, shares, to_device
from lethe.training.finetune import answer, ask


@dataclass(frozen=True)
class States:
    """A training batch, float32, on the device, without graphs; each row stands at a step of its own."""

    noisy: Tensor  # [B, C, h, w], x_t
    t: Tensor  # [B] long
    text: Tensor  # [B, L, D], what the trajectory was guided by
    null: Tensor  # [B, C, h, w], the network's answer at x_t to the empty prompt
    conditional: Tensor  # [B, C, h, w], and to the text
    clean: Tensor | None = None  # [B, C, h, w], z_0 at the trajectory's end, if asked for


class Trajectories:
    """The states of optimiser steps k = 0, 1, ..., `steps` - 1; the current window is kept, others are drawn anew."""

    def __init__(
        self,
        network: nn.Module,
        sampler: DDIMScheduler,
        empty: Tensor,
        texts: Callable[[int], Tensor],
        latent_shape: tuple[int, int, int],
        options: Mapping,
        seed: int,
        steps: int,
        clean: bool = False,
    ) -> None:
        """`network` is frozen, `empty` [1, L, D] the empty prompt; `texts(window)` gives the text of each row, [B, L,
        D] float32 on the device. `options` holds guidance, sampler_steps and reuse, at most sampler_steps. With
        `clean`, states bring z_0 too."""
        self.network, self.sampler, self.empty, self.texts = network, sampler, empty, texts
        self.latent_shape, self.options, self.seed, self.steps, self.clean = latent_shape, options, seed, steps, clean
        self.window = -1
        self.states: list[States] = []

    def at(self, k: int, budget: Budget) -> States:
        """Step k's states. The trajectories count when a window's first step asks for them: a run that goes on within
        a window draws it again, but it was counted when it was drawn first."""
        window, turn = divmod(k, self.options["reuse"])
        if window != self.window:
            counted = budget if turn == 0 else Budget()
            turns = min(self.options["reuse"], self.steps - window * self.options["reuse"])
            self.states = []  # the old window's memory goes before the new one's is taken
            self.states = draw(
                self.network,
                self.sampler,
                self.empty,
                self.texts(window),
                self.latent_shape,
                self.options,
                turns,
                self.seed,
                window,
                counted,
                self.clean,
            )
            self.window = window
        return self.states[turn]


@torch.no_grad()
def draw(
    network: nn.Module,
    sampler: DDIMScheduler,
    empty: Tensor,
    text: Tensor,
    latent_shape: tuple[int, int, int],
    options: Mapping,
    turns: int,
    seed: int,
    window: int,
    budget: Budget,
    clean: bool = False,
) -> list[States]:
    """A window: trajectories of a batch, cut into `turns` training batches. No row meets a step twice.

    Trajectories end with the last step that any batch takes, unless `clean` latents are wanted.
    """
    batch, steps, device = len(text), options["sampler_steps"], text.device
    draws = generator(seed, "trajectory", window)
    x = to_device(torch.randn((batch, *latent_shape), generator=draws), device)
    picks = torch.rand((batch, steps), generator=draws).argsort(1)[:, :turns].T  # [turns, B]
    last = steps if clean else int(picks.max()) + 1

    passed = list(walk(network, sampler, empty, text, x, steps, options["guidance"], last, budget))
    end = passed[-1][-1] if clean else None
    states, null, conditional = (torch.stack(column) for column in [*zip(*passed, strict=True)][:3])
    times = to_device(sampler.timesteps[picks], device)
    picks, rows = to_device(picks, device), torch.arange(batch, device=device)
    return [
        States(states[pick, rows], t, text, null[pick, rows], conditional[pick, rows], end)
        for pick, t in zip(picks, times, strict=True)
    ]


def walk(
    network: nn.Module,
    sampler: DDIMScheduler,
    empty: Tensor,
    text: Tensor,
    x: Tensor,
    steps: int,
    guidance: float,
    last: int,
    budget: Budget,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The first `last` of `steps` DDIM steps of a frozen network from noise x [B, C, h, w]: at each the state, the
    answers to the empty prompt and to the text [B, L, D], and the next state. Two forwards a row and step."""
    both = torch.cat([empty.expand_as(text), text])
    sampler.set_timesteps(steps)
    for t in sampler.timesteps[:last]:  # on the CPU, where the sampler looks its tables up
        times = torch.full((2 * len(x),), int(t), device=x.device)
        null, conditional = ask(network, torch.cat([x, x]), times, both, budget).chunk(2)
        following = sampler.step(null + guidance * (conditional - null), t, x, return_dict=False)[0]
        yield x, null, conditional, following
        x = following


@torch.no_grad()
def pictures(
    network: nn.Module,
    sampler: DDIMScheduler,
    empty: Tensor,
    text: Tensor,
    latent_shape: tuple[int, int, int],
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Tensor:
    """Clean latents [N, C, h, w] that a frozen network draws for the texts [N, L, D], `batch` at a time.

    `options` holds batch, guidance and sampler_steps. Row i's noise follows from the seed and its batch.
    """
    found, steps = [], options["sampler_steps"]
    for index, rows in enumerate(text.split(options["batch"])):
        draws = generator(seed, "picture", index)
        x = to_device(torch.randn((len(rows), *latent_shape), generator=draws), text.device)
        *_, last = walk(network, sampler, empty, rows, x, steps, options["guidance"], steps, budget)
        found.append(last[-1])
    return torch.cat(found)


@torch.no_grad()
def arrive(
    student: nn.Module,
    sampler: DDIMScheduler,
    empty: Tensor,
    text: Tensor,
    latent_shape: tuple[int, int, int],
    options: Mapping,
    seed: int,
    k: int,
    budget: Budget,
) -> tuple[Tensor, Tensor]:
    """x_t [B, C, h, w] and t [B] that a network in training has at a random step of each row's trajectory.

    `options` holds guidance and sampler_steps. Rows that have arrived are asked no more; all forwards count as the
    student's.
    """
    steps, device = options["sampler_steps"], text.device
    draws = generator(seed, "trajectory", k)
    x = to_device(torch.randn((len(text), *latent_shape), generator=draws), device)
    picks = torch.randint(steps, (len(text),), generator=draws)
    sampler.set_timesteps(steps)
    for index, t in enumerate(sampler.timesteps[: int(picks.max())]):
        rows = to_device((picks > index).nonzero()[:, 0], device)
        own, captions = x[rows], text[rows]
        times = torch.full((2 * len(own),), int(t), device=device)
        both = torch.cat([empty.expand_as(captions), captions])
        null, conditional = answer(student, torch.cat([own, own]), times, both, budget).chunk(2)
        x[rows] = sampler.step(null + options["guidance"] * (conditional - null), t, own, return_dict=False)[0]
    return x, to_device(sampler.timesteps[picks], device)


def dealt(texts: Tensor, batch: int, step: int) -> Tensor:
    """[B, L, D]: the rows of a batch, shared equally by the texts [n, L, D], who take turns with what remains."""
    counts = to_device(torch.tensor(shares(batch, len(texts), step)), texts.device)
    return texts.repeat_interleave(counts, 0, output_size=batch)
