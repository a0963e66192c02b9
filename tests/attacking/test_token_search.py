"""The search alone, on a linear toy whose answers are known; the attacks that use it have tests of their own."""

import pytest
import torch
from torch import nn

from lethe.attacking import token_search
from lethe.stage.record import Budget
from lethe.texts import tokens
from lethe.training import losses
from tests.attacking.attacks.searching import OPTIONS
from tests.attacking.attacks.victims import victim


class Linear(nn.Module):
    """f(x_t, t, c) = x_t + sum over positions and channels of c, times `weight` [W, C, 1, 1]."""

    def __init__(self, width, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.randn((width, channels), generator=torch.Generator().manual_seed(1)))
        self.requires_grad_(False)

    def forward(self, noisy, t, text, return_dict):
        return (noisy + (text.sum(1) @ self.weight)[:, :, None, None],)


@pytest.fixture
def own(tiny_base):
    return victim(tiny_base, unet=Linear(16, 4))


def search(own, target=None, **changed):
    table = losses.schedule(own.base.scheduler, None, "legacy", own.device)
    target = target or (lambda shown: table.target(shown.clean, shown.noise, shown.t))
    return token_search.Search(own, OPTIONS | changed, table, target, "toy", 0, Budget())


def states(made, found):
    return tokens.encode(made.text_encoder, found)


def test_the_loss_is_the_closed_form(own):
    """v-prediction: |x_t + b - v|^2 / n with b = W' sum c, x_t = a x_0 + s e, v = a e - s x_0."""
    made = search(own)
    texts = made.texts.filled(made.ids[torch.arange(12).view(6, 2)])
    rows = made.tiles[0]
    shown, _ = made.noised(rows, "check", 0, 300)
    found = made.losses(shown, states(made, texts.rows(rows)), made.target(shown))
    alphabar = own.base.scheduler.alphas_cumprod[300]
    a, s = alphabar.sqrt(), (1 - alphabar).sqrt()
    assert found.shape == (6,)
    for number, key in enumerate(made.keys):
        clean, noise = own.originals[key], shown.noise[number]
        b = states(made, texts.rows([number]))[0].sum(0) @ own.unet.weight
        wanted = ((a + s) * clean + (s - a) * noise + b[:, None, None]).square().mean()
        assert float(found[number]) == pytest.approx(float(wanted), rel=1e-4)


def test_a_step_is_the_drawn_tokens_gradient_then_adam_then_the_simplex(own):
    made, other = search(own, batch=6), search(own, batch=6)
    made.step(0)
    shown, uniform = other.noised(list(range(6)), "search", 0, other.times[0])
    size = len(other.words)
    picked = (uniform * size).long()  # all chances are equal
    vectors = other.vectors[picked].requires_grad_(True)
    text = tokens.encode(other.text_encoder, other.texts, vectors)
    other.losses(shown, text, other.target(shown)).sum().backward()
    gradient = (vectors.grad @ other.vectors.T).clamp(-1, 1)
    start = torch.full((2, size), 1 / size, requires_grad=True)
    for row in range(6):
        copied = start.detach().clone().requires_grad_(True)
        copied.grad = gradient[row].clone()
        torch.optim.Adam([copied], lr=OPTIONS["lr"], weight_decay=0.1).step()
        torch.testing.assert_close(made.state.chances[row].detach(), tokens.simplex(copied.detach()))


def test_of_all_single_tokens_it_finds_a_good_one(own):
    """y is what f answers with one token that is known, so that the loss of every token can be ranked."""
    hidden = search(own, tokens=1)
    answers = hidden.texts.filled(hidden.ids[torch.arange(6) * 5 + 3][:, None])

    def target(shown):
        text = tokens.encode(hidden.text_encoder, answers.rows(shown.rows))
        return own.unet(shown.noisy, shown.t, text, False)[0]

    made = search(own, target, tokens=1, timesteps=25, iterations=4)
    for k in range(100):
        made.step(k)
    every = torch.stack([made.compared(made.texts.filled(one.expand(6, 1))) for one in made.ids])
    ranks = (every < made.state.loss).sum(0)
    assert ranks.max() < 10
    assert (ranks == 0).sum() >= 2


def test_the_best_candidate_is_kept(own):
    made = search(own, iterations=1)
    made.state.loss.fill_(-1.0)
    before = made.state.tokens.clone()
    assert made.step(0)["candidate"] > 0
    assert torch.equal(made.state.tokens, before)
    made.state.loss.fill_(float("inf"))
    made.step(1)
    assert torch.equal(made.state.tokens, made.ids[torch.stack([own.argmax(-1) for own in made.state.chances])])
    torch.testing.assert_close(made.state.loss, made.compared(made.texts.filled(made.state.tokens)))


def test_every_level_has_its_steps(own, monkeypatch):
    made, seen = search(own, timesteps=4, iterations=3), []
    noised = made.noised
    monkeypatch.setattr(made, "noised", lambda *given: (seen.append(given[3]), noised(*given))[1])
    terms = [made.step(k) for k in range(12)]
    assert seen == [level for level in (125, 375, 625, 875) for _ in range(3)]
    assert ["candidate" in one for one in terms] == [False, False, True] * 4
