"""The white-box search for adversarial tokens that UnlearnDiffAtk and P4D share (2310.11868, 2309.06135).

For each row of the prompt files k tokens c' are looked for, so that the attacked U-Net f answers to [c'; prompt] as it
would if nothing had been erased:

    min over c'  mean (f(x_t, t, [c'; prompt]) - y)^2,   x_t = a_t x_0 + s_t e,

with x_0 what the dense base draws for that prompt and seed. What y is distinguishes the attacks. The k tokens are rows
of chances on the simplex over the vocabulary; a step draws one token from each, passes the gradient straight through,
takes an Adam step (weight decay 0.1, as published) and projects. t goes once through the schedule, rising, with
`iterations` steps at each of `timesteps` levels, from the chances that the level before left.

After each level the likeliest tokens are a candidate. The released code draws a picture of each and stops when the
judge sees the concept, so that its success is the best of up to fifty tries; no judge is asked here: the candidate with
the least loss on four noisings, which are the same for all of a row's candidates, is the one that is drawn.

Rows share nothing: each has its own chances and generator, and a place in a tile of exactly `batch` rows, the last tile
filled up. A guided victim (`lethe.erasing.guidance`) is searched on its U-Net alone.
Per step and place in a tile: one forward and one backward; per level four forwards more. Both pad as said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.attacking.victims import Attacked, Victim
from lethe.drawing.sampling import tiles
from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.training.data import generator, to_device
from lethe.training.finetune import answer
from lethe.training.loop import Keeping, Training, run
from lethe.training.losses import Schedule, schedule

DECAY = 0.1  # of Adam, as published
CHECKS = 4  # noisings that candidates are compared on


@dataclass(frozen=True)
class Noised:
    """A tile of rows at one noise level, as the attacked U-Net is shown it."""

    rows: list[int]  # which rows; the last may stand there several times
    clean: Tensor  # [B, C, h, w], x_0
    noise: Tensor  # [B, C, h, w], e
    noisy: Tensor  # [B, C, h, w], x_t
    t: Tensor  # [B] long


# y: what f is to answer, [B, C, h, w] without a graph
Target = Callable[[Noised], Tensor]


class State(nn.Module):
    """Chances of the tokens, a parameter [k, V] for each row, and the best tokens that were found."""

    tokens: Tensor  # [rows, k] long
    loss: Tensor  # [rows]

    def __init__(self, rows: int, count: int, size: int, device: torch.device) -> None:
        super().__init__()
        start = torch.full((count, size), 1 / size, device=device)
        self.chances = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(rows))
        self.register_buffer("tokens", torch.zeros((rows, count), dtype=torch.long, device=device))
        self.register_buffer("loss", torch.full((rows,), float("inf"), device=device))


class Search:
    """The steps k = 0, 1, ... of a search; `state` is all that they change."""

    def __init__(
        self, victim: Victim, options: Mapping, table: Schedule, target: Target, where: str, seed: int, budget: Budget
    ) -> None:
        """`where` is the attack's name, for messages. Raises UserError if the tokens do not fit into the text encoder's
        length, and for more timesteps than the schedule has."""
        base, self.device, pictures = victim.base, victim.device, list(victim.pictures())
        self.times = tokens.levels(options["timesteps"], len(table), f"{where}.timesteps")
        self.unet, self.text_encoder, self.table, self.target = victim.unet, base.text_encoder, table, target
        self.seed, self.budget, self.each = seed, budget, options["iterations"]
        self.keys = [(name, row.case_number) for name, row in pictures]
        self.prompts = [row.prompt for _, row in pictures]
        self.clean = torch.stack([victim.originals[key] for key in self.keys])
        count, length = options["tokens"], tokens.length(base)
        fitting = (base.tokenizer, self.prompts, count, options["position"], length, self.device, f"{where}.tokens")
        self.texts = tokens.sentences(*fitting)
        self.words = tokens.vocabulary(base.tokenizer)
        self.ids = torch.tensor(list(self.words), device=self.device)
        self.vectors = base.text_encoder.get_input_embeddings().weight.detach()[self.ids].float()
        self.tiles = [_padded(rows, options["batch"]) for rows in tiles(len(self.keys), options["batch"])]
        self.state = State(len(self.keys), count, len(self.words), self.device)
        self.optimizer = torch.optim.Adam(self.state.parameters(), lr=options["lr"], weight_decay=DECAY)
        self.checks = self._checks()

    @torch.no_grad()
    def _checks(self) -> list[list[tuple[Noised, Tensor]]]:
        """For each tile its noisings that candidates are compared on, with y."""
        count = min(CHECKS, len(self.table))
        levels = tokens.levels(count, len(self.table), "timesteps")
        shown = [[self.noised(rows, "check", k, t)[0] for k, t in enumerate(levels)] for rows in self.tiles]
        return [[(one, self.target(one)) for one in own] for own in shown]

    def noised(self, rows: list[int], stream: str, k: int, level: int) -> tuple[Noised, Tensor]:
        """A tile at one level, and uniform numbers [B, k] that pick its tokens; each row's from its own generator."""
        draws = [generator(self.seed, "/".join([stream, *map(str, self.keys[row])]), k) for row in rows]
        noise = to_device(torch.stack([torch.randn(self.clean.shape[1:], generator=one) for one in draws]), self.device)
        uniform = torch.stack([torch.rand(self.state.tokens.shape[1], generator=one) for one in draws])
        clean, t = self.clean[rows], torch.full((len(rows),), level, device=self.device)
        shown = Noised(rows, clean, noise, self.table.noised(clean, noise, t), t)
        return shown, to_device(uniform, self.device)

    def losses(self, shown: Noised, text: Tensor, wanted: Tensor) -> Tensor:
        """mean (f - y)^2 of each row that is there once, [n <= B]."""
        found = answer(self.unet, shown.noisy, shown.t, text, self.budget)
        return (found.float() - wanted).square().flatten(1).mean(1)[: len(set(shown.rows))]

    @torch.no_grad()
    def compared(self, texts: tokens.Sentences) -> Tensor:
        """Loss of each row on the noisings that candidates are compared on, [N]."""
        values = []
        for rows, checks in zip(self.tiles, self.checks, strict=True):
            text = tokens.encode(self.text_encoder, texts.rows(rows))
            values.append(torch.stack([self.losses(one, text, wanted) for one, wanted in checks]).mean(0))
        return torch.cat(values)

    def step(self, k: int) -> dict[str, Tensor]:
        """One step of every row; after the last of a level the candidates are compared."""
        values = [self._descend(rows, k) for rows in self.tiles]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for rows in self.tiles:  # whole tiles, so that a row is summed in the same way in each
                projected = tokens.simplex(torch.stack([self.state.chances[row] for row in rows]))
                for row, new in zip(rows, projected, strict=True):
                    self.state.chances[row].copy_(new)
        terms = {"loss": torch.cat(values).mean()}
        return terms if (k + 1) % self.each else terms | {"candidate": self._choose().mean()}

    def _descend(self, rows: list[int], k: int) -> Tensor:
        """Adds a tile's gradients; its losses."""
        shown, uniform = self.noised(rows, "search", k, self.times[k // self.each])
        real = len(set(rows))
        chances = [self.state.chances[row] for row in rows[:real]]
        chances += [chances[-1].detach()] * (len(rows) - real)
        with torch.no_grad():
            wanted = self.target(shown)
        picked = tokens.sampled(torch.stack(chances), uniform) @ self.vectors
        losses = self.losses(shown, tokens.encode(self.text_encoder, self.texts.rows(rows), picked), wanted)
        losses.sum().backward()  # the sum, so that a row's gradient is what it would be alone
        return losses.detach()

    @torch.no_grad()
    def _choose(self) -> Tensor:
        """Keeps the likeliest tokens of each row where they are the best so far; their losses."""
        state, likeliest = self.state, self.ids[torch.stack([own.argmax(-1) for own in self.state.chances])]
        values = self.compared(self.texts.filled(likeliest))
        better = values < state.loss
        state.tokens.copy_(torch.where(better[:, None], likeliest, state.tokens))
        state.loss.copy_(torch.where(better, values, state.loss))
        return values


def search(
    victim: Victim,
    options: Mapping,
    target: Callable[[Schedule], Target],
    where: str,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Attacked:
    """Tokens for every row of the victim. `target(schedule)` gives y; raises what `Search` does.

    What is asked is text; should a tokenizer read it otherwise than it was meant, its embeddings go with it.
    """
    table = schedule(victim.base.scheduler, None, "legacy", victim.device)
    found = Search(victim, options, table, target(table), where, seed, budget)
    # These passes are counted anew when a run goes on; then the count in its state takes their place.
    plain = found.compared(tokens.plain(victim.base.tokenizer, found.prompts, tokens.length(victim.base), found.device))
    training = Training(found.step, {"student": found.state}, {"tokens": found.optimizer})
    progress = run(training, len(found.times) * found.each, keeping, {"total": budget})

    texts, asked, states, facts = found.texts.filled(found.state.tokens), {}, {}, []
    for index, (key, prompt) in enumerate(zip(found.keys, found.prompts, strict=True)):
        words = [found.words[one] for one in found.state.tokens[index].tolist()]
        asked[key] = tokens.joined(words, prompt, options["position"])
        if not tokens.survives(victim.base.tokenizer, asked[key], texts.rows([index])):
            with torch.no_grad():
                states[asked[key]] = tokens.encode(victim.base.text_encoder, texts.rows([index]))[0].cpu()
        losses = {"loss_of_prompt": float(plain[index]), "loss": float(found.state.loss[index])}
        facts.append(
            {"set": key[0], "case_number": key[1], "tokens": " ".join(words)}
            | {name: f"{value:.6g}" for name, value in losses.items()}
        )
    about = {"vocabulary": len(found.words), "tokens": len(victim.base.tokenizer), "not_as_text": len(states)}
    return Attacked(asked=asked, states=states, facts=facts, about=about, progress=progress)


def _padded(rows: range, size: int) -> list[int]:
    """The rows of a tile, filled up with its last."""
    return [*rows, *[rows[-1]] * (size - len(rows))]
