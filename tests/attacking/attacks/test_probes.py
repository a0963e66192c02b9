"""Completion and inpainting: where they begin, and what they ask."""

import pytest
import torch

from lethe.attacking.attacks import completion, inpainting
from lethe.stage.record import Budget
from tests.attacking.attacks.victims import victim


@pytest.mark.parametrize(("strength", "first"), [(1.0, 0), (0.6, 2), (0.2, 4), (0.01, 4)])
def test_completion_begins_at_the_originals_that_many_steps_before_the_end(tiny_base, strength, first):
    own = victim(tiny_base)
    found = completion.attack(own, {"strength": strength, "text": "own"}, 0, None, Budget())
    assert {start.step for start in found.starts.values()} == {first}
    assert all(torch.equal(found.starts[key].latents, latent) for key, latent in own.originals.items())
    assert all(start.mask is None for start in found.starts.values())
    assert found.asked == {} and len(found.starts) == 6


@pytest.mark.parametrize("attack", [completion, inpainting])
def test_without_a_text_the_victim_is_asked_for_nothing(tiny_base, attack):
    options = {"strength": 0.5, "text": "empty", "hole": "centre", "share": 0.5}
    found = attack.attack(victim(tiny_base), options, 0, None, Budget())
    assert set(found.asked) == set(found.starts) and set(found.asked.values()) == {""}


HOLES = {
    "centre": ["....", ".xx.", ".xx.", "...."],
    "left": ["xx..", "xx..", "xx..", "xx.."],
    "right": ["..xx", "..xx", "..xx", "..xx"],
    "top": ["xxxx", "xxxx", "....", "...."],
    "bottom": ["....", "....", "xxxx", "xxxx"],
}


@pytest.mark.parametrize("where", HOLES)
def test_holes(where):
    wanted = torch.tensor([[float(sign == "x") for sign in line] for line in HOLES[where]])
    assert torch.equal(inpainting.hole((4, 4), where, 0.5)[0], wanted)


def test_holes_of_any_size_lie_inside():
    assert inpainting.hole((7, 5), "centre", 1.0).mean() == 1
    assert inpainting.hole((7, 5), "centre", 0.01).sum() == 1
    assert inpainting.hole((7, 5), "left", 1.0).sum() == 7 * 2  # an odd side: the smaller half


def test_inpainting_draws_all_of_the_hole_from_noise(tiny_base):
    found = inpainting.attack(victim(tiny_base), {"hole": "left", "share": 1.0, "text": "own"}, 0, None, Budget())
    assert {start.step for start in found.starts.values()} == {0}
    assert all(start.mask.shape == (1, 8, 8) and start.mask.sum() == 32 for start in found.starts.values())
    assert found.about == {"drawn_anew": 0.5}
