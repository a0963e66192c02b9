"""Values that cannot be meant are refused with what is legal; switches that change no result move no address."""

import copy

import pytest

from lethe.files.errors import UserError
from lethe.measuring.runs import Group
from lethe.params import options

PAINTER = {"prompt": "a painting by it", "anchor": "a painting", "prompts": "it.csv"}
MINE = {
    "experiment": "mine",
    "base": {"path": "models/mine"},
    "pictures": {"finetune": "a", "eval": "b"},
    "concepts": {"it": PAINTER, "other": PAINTER},
    "prompts": {"retain": "r.csv", "eval": "e.csv"},
    "grid": {"sets": {"it": ["it"]}, "arms": ["distill", "bilevel"]},
}


def changed(place: str, value: object) -> dict:
    found = copy.deepcopy(MINE)
    *path, last = place.split("/")
    section = found
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    return found


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("report/bootstrap", 10**12, "report.bootstrap: 1000000000000 is greater than the maximum of 100000"),
        ("score/kid_subsets", 10**9, "score.kid_subsets: 1000000000 is greater than the maximum of 10000"),
        ("report/grid_prompts", 10**6, "report.grid_prompts: 1000000 is greater than the maximum of 64"),
        ("encode/generated", 10**9, "encode.generated: 1000000000 is greater than the maximum of 100000"),
        ("grid/seeds", [2**63], "grid.seeds.0: 9223372036854775808 is greater than the maximum"),
        ("grid/seeds", [1, 1], "grid.seeds: [1, 1] has non-unique elements"),
        ("grid/budgets", [0.8, 0.80], "grid.budgets: [0.8, 0.8] has non-unique elements"),
        ("grid/arms", ["distill", "distill"], "grid.arms: ['distill', 'distill'] has non-unique elements"),
        ("grid/sets", {"a": ["it", "other"], "b": ["other", "it"]}, "grid.sets: a and b hold the same concepts"),
        ("concepts/it", PAINTER | {"style": "x", "neighbours": ["y", "x"]}, "concepts.it.neighbours: 'x' is its own"),
        ("sample/steps", 0, "sample.steps: 0 is less than the minimum of 1"),
        ("attacks/prompts", 0, "attacks.prompts: 0 is less than the minimum of 1"),
        ("experiment", "mine\n", "experiment: the value 'mine\\n' is not made of lower-case letters"),
        (
            "experiment",
            "m" * 62,
            "is not made of lower-case letters, digits and _, beginning with a letter, 61 at most",
        ),
        ("concepts/it\n", PAINTER, "concepts: the name 'it\\n' is not made of lower-case letters"),
        ("concepts/" + "i" * 62, PAINTER, "is not made of lower-case letters"),
        ("concepts/it", PAINTER | {"prompt": "a\0b"}, "concepts.it.prompt: the value 'a\\x00b' is not made of a text"),
        ("concepts/it", PAINTER | {"anchor": "a\0b"}, "concepts.it.anchor: the value 'a\\x00b' is not made of a text"),
    ],
)
def test_it_is_refused(place, value, words):
    with pytest.raises(UserError) as caught:
        options.validate(changed(place, value))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_texts_may_have_two_lines_and_no_anchor():
    own = options.validate(changed("concepts/it", PAINTER | {"prompt": "a\nb", "anchor": ""}))["concepts"]["it"]
    assert (own["prompt"], own["anchor"]) == ("a\nb", "")


def test_budgets_that_differ_have_tags_that_differ():
    tags = [Group(budget, "all", (), {}, {}).tag for budget in (0.8, 0.801, 0.804, 0.55, 0.05, 0.005)]
    assert tags == ["b080-all", "b0801-all", "b0804-all", "b055-all", "b005-all", "b0005-all"]
