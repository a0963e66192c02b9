import dataclasses

import pytest
import torch

from lethe.attacking.spellings import captions, check, reworded, spellings
from lethe.files.errors import UserError
from tests.attacking.attacks.spoken import speaking

CONCEPT = {"prompt": "a painting by monet", "anchor": "a painting"}


def test_captions_and_what_they_are_without_the_concept(tiny_base, tmp_path):
    pictures = speaking(tiny_base, tmp_path).base.concepts["monet"]
    found = captions(pictures)
    check(pictures, found, "monet")
    assert found[:2] == [("a monet's boat", "a boat"), ("a hut in the style of monet", "a hut")]
    assert found[2] == found[3] == ("sun by monet", "sun")
    with pytest.raises(UserError, match=r"\(monet\): every caption is the same without the concept; give another"):
        check(pictures, [("a boat", "a boat")] * 2, "monet")
    none = dataclasses.replace(pictures, anchor=None)
    assert captions(none)[0] == ("a monet's boat", "a monet's boat")
    with pytest.raises(UserError, match=r"\(monet\): pictures encoded without anchors"):
        check(none, captions(none), "monet")
    one = dataclasses.replace(pictures, caption=torch.tensor([1]), anchor=pictures.anchor[1:2])
    assert captions(one) == [("a hut in the style of monet", "a hut")]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a hut in the style of monet", "a hut *"),
        ("a hut by monet", "a hut *"),
        ("monet, a hut", "*, a hut"),
        ("a hut", "a painting *"),
    ],
)
def test_a_prompt_with_another_word(prompt, wanted):
    spoken = spellings(CONCEPT, [("a boat in the style of monet", "a boat")])
    assert spoken == ["in the style of monet", "by monet", "monet"]
    assert reworded(prompt, CONCEPT, spoken, "*") == wanted


def test_taking_out_all_of_a_prompt_leaves_the_anchor():
    assert reworded("by monet", CONCEPT, spellings(CONCEPT, []), "") == "a painting"


def test_taking_it_out_takes_the_comma_too():
    spoken = spellings(CONCEPT, [("a tree, style of monet", "a tree")])
    assert reworded("tall sun, style of monet", CONCEPT, spoken, "") == "tall sun"
    assert reworded("tall sun, style of monet", CONCEPT, spoken, "*") == "tall sun, *"
