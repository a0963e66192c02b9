"""The same shapes as the expert, weights of its own; one expert a budget."""

import copy

import pytest
import torch

from lethe.files.errors import UserError
from lethe.params import checking, experts, rules
from lethe.pruning import narrowing
from tests.pruning.pruners.test_aptp import LENGTH, SHAPE, expert, net


def goal(folder, draw=0):
    return narrowing.Goal(0.5, SHAPE, LENGTH, 0.1, 0.5, {"checkpoint": str(folder), "draw": draw})


def test_its_shapes_are_the_experts_and_its_weights_are_not(tmp_path):
    dense = net()
    folder = expert(tmp_path / "expert", dense)
    kept, record = narrowing.prune(copy.deepcopy(dense), "aptp", goal(folder))
    fresh, layers = narrowing.prune(copy.deepcopy(dense), "aptp_random_init", goal(folder))
    again, _ = narrowing.prune(copy.deepcopy(dense), "aptp_random_init", goal(folder))
    other, _ = narrowing.prune(copy.deepcopy(dense), "aptp_random_init", goal(folder, draw=1))
    assert layers["layers"] == record["layers"] and layers["macs"] == record["macs"]
    shapes = {name: value.shape for name, value in kept.state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    weights = [found.state_dict()["mid_block.resnets.0.conv1.weight"] for found in (kept, fresh, again, other)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[3])


def test_one_expert_a_budget():
    section = {"pruner": "aptp", "checkpoint": {"0.80": "a", "0.55": "b"}}
    assert experts.at_budget(section, 0.8) == {"pruner": "aptp", "checkpoint": "a"}
    assert experts.at_budget(section, 0.55)["checkpoint"] == "b"
    assert experts.at_budget({"pruner": "aptp", "checkpoint": "a"}, 0.3)["checkpoint"] == "a"
    assert experts.at_budget({"pruner": "magnitude"}, 0.3) == {"pruner": "magnitude"}
    with pytest.raises(UserError, match=r"prune\.checkpoint: no expert for budget 0\.7; it has 0\.80, 0\.55"):
        experts.at_budget(section, 0.7)


@pytest.mark.parametrize("name", [{0.8: "a"}, {"most": "a"}, {"1.5": "a"}])
def test_a_budget_that_is_none_is_refused(name):
    schema = rules.section_schema("prune", ("pruners", "aptp"))
    values = rules.complete({"pruner": "aptp", "checkpoint": name}, schema)
    with pytest.raises(UserError, match=r"prune\.checkpoint.*a budget such as 0\.80, in quotes"):
        checking.check(values, schema, "prune")
