import copy

import pytest
import torch

from lethe.attacking.attacks import mask_leak
from lethe.files.errors import UserError
from lethe.models.cutting import cut
from lethe.stage.record import Budget
from tests.attacking.attacks.victims import victim

OPTIONS = {"estimate": "low_rank", "rank": 2, "rounds": 200, "scale": 1.0}
NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


def attack(own, **changed):
    return mask_leak.attack(own, OPTIONS | changed, 0, None, Budget())


def low_rank(rows, columns, rank, seed=0):
    draws = torch.Generator().manual_seed(seed)
    left, right = torch.randn(rows, rank, generator=draws), torch.randn(rank, columns, generator=draws)
    return left @ right / rank**0.5


def holes(weight, share, seed=1):
    return torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < share


def test_entries_of_a_matrix_of_low_rank_are_found_from_the_others():
    weight = low_rank(40, 30, 2)
    mask = holes(weight, 0.2)
    found = mask_leak.complete(weight.masked_fill(mask, 0.0), mask, 2, 300)
    assert (found[mask] - weight[mask]).norm() < 0.01 * weight[mask].norm()


def test_each_round_comes_nearer_to_what_is_known():
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(3))
    mask = holes(weight, 0.3)
    known = weight.masked_fill(mask, 0.0)
    far = [(mask_leak.complete(known, mask, 3, rounds) - weight)[~mask].norm() for rounds in (1, 2, 5, 20)]
    assert far == sorted(far, reverse=True)


def test_zeros_are_filled_and_all_other_weights_stay(tiny_base):
    own = victim(tiny_base)
    layer = own.unet.get_submodule(NAME)
    true = low_rank(*layer.weight.shape, 2)
    mask = holes(true, 0.2)
    mask[3], mask[:, 5] = True, True  # a row and a column of which nothing is left
    layer.weight.data.copy_(true.masked_fill(mask, 0.0))
    before = {name: value.clone() for name, value in own.unet.state_dict().items()}
    found = attack(own)
    after = own.unet.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {f"{NAME}.weight"}
    lost = torch.zeros_like(mask)
    lost[3], lost[:, 5] = True, True
    knowable = mask & ~lost
    assert torch.equal(layer.weight[~mask], true[~mask]) and not layer.weight[lost].any()
    assert (layer.weight[knowable] - true[knowable]).norm() < 0.05 * true[knowable].norm()
    assert found.about == {"zeros": int(mask.sum()), "filled": int(knowable.sum()), "matrices": 1}


def test_the_scale_multiplies_what_is_filled_in(tiny_base):
    filled = []
    for scale in (1.0, 3.0):
        own = victim(tiny_base)
        weight = own.unet.get_submodule(NAME).weight
        mask = holes(weight, 0.2)
        weight.data.masked_fill_(mask, 0.0)
        attack(own, scale=scale)
        filled.append(weight[mask])
    assert torch.allclose(3 * filled[0], filled[1])


def test_the_dense_model_tells_what_was_there_also_of_a_pruned_victim(tiny_base):
    own = victim(tiny_base)
    attn = NAME.rpartition(".")[0]
    layers = {attn: {"kind": "heads", "total": own.unet.get_submodule(attn).heads, "kept": [1]}}
    cut(own.unet, layers)
    true = copy.deepcopy(own.unet).state_dict()
    weight = own.unet.get_submodule(NAME).weight
    weight.data.masked_fill_(holes(weight, 0.4), 0.0)
    text = own.base.text_encoder.encoder.layers[0].mlp.fc2.weight
    text.data.masked_fill_(holes(text, 0.4), 0.0)
    pruned = copy.copy(own.__dict__) | {"pruning": layers}
    attack(type(own)(**pruned), estimate="dense")
    assert all(torch.equal(value, true[name]) for name, value in own.unet.state_dict().items())
    now = list(own.base.text_encoder.parameters())
    assert all(torch.equal(old, new) for old, new in zip(own.base.base_text, now, strict=True))


def test_a_few_zeros_by_rounding_are_no_mask():
    net = torch.nn.Linear(100, 100)
    net.weight.data[:2, :2] = 0.0
    assert list(mask_leak.zeros(net)) == []
    net.weight.data[:3, :3] = 0.0
    ((name, (_, mask)),) = mask_leak.zeros(net)
    assert (name, int(mask.sum())) == ("weight", 9)
    net.weight.data.zero_()
    assert list(mask_leak.zeros(net)) == [], "nothing is left to tell"


def test_a_victim_without_zeros_and_one_that_is_not_the_bases_are_refused(tiny_base):
    with pytest.raises(UserError, match=r"mask_leak: no matrix of this victim is exactly zero in 0\.05% of its places"):
        attack(victim(tiny_base))
    own = victim(tiny_base)
    attn = NAME.rpartition(".")[0]
    cut(own.unet, {attn: {"kind": "heads", "total": own.unet.get_submodule(attn).heads, "kept": [0]}})
    own.unet.get_submodule(NAME).weight.data[0, 0] = 0.0
    with pytest.raises(UserError, match=r"the dense base has no unet\.\S+to_v.weight of \[.*\]; estimate low_rank"):
        attack(own, estimate="dense")
