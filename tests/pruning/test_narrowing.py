"""Budgets are hit, units go whole, and a fresh process sees the same net."""

import copy
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from lethe.files.errors import UserError
from lethe.models.cutting import channels, cut, members
from lethe.models.macs import count_macs, count_params, macs_by_module, released_macs
from lethe.models.pipelines import latent_shape, load_base, text_length
from lethe.models.unets import hook_blocks, load_unet, save_unet
from lethe.pruning import narrowing

SETTINGS = {"keep_least": 0.2, "tolerance": 0.01}


def four_levels() -> UNet2DConditionModel:
    """Down to a single latent position, with five-headed layers and three channels a norm group."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(64, 80, 96, 96),
        layers_per_block=1,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        cross_attention_dim=64,
        attention_head_dim=(4, 5, 6, 6),
        norm_num_groups=16,
        use_linear_projection=True,
    ).eval()


NETS = ["tiny_base", "other_base", "four_levels"]


def dense_net(request, name):
    """A dense net with its latent shape and text length."""
    if name == "four_levels":
        return four_levels(), (16, 8, 8), 24
    path = str(request.getfixturevalue(name))
    unet = load_base(path, None, ["unet"]).unet
    return unet, latent_shape(unet), text_length(path, None)


@pytest.fixture(scope="module", params=NETS)
def net(request):
    return dense_net(request, request.param)


def inputs(unet, shape, length, seed=0):
    noise = torch.Generator().manual_seed(seed)
    text = torch.randn(2, length, unet.config.cross_attention_dim, generator=noise)
    return torch.randn(2, *shape, generator=noise), torch.tensor(500), text


@torch.no_grad()
def output(unet, *given):
    return unet(*given).sample


def pruned(net, budget, **other):
    goal = narrowing.Goal(budget, net[1], net[2], **SETTINGS | other)
    return narrowing.prune(copy.deepcopy(net[0]), "magnitude", goal)


@pytest.mark.parametrize("budget", [0.80, 0.55])
def test_budget_is_hit_and_widths_stay_whole(net, budget):
    dense, shape, length = net
    unet, record = pruned(net, budget)
    assert record["macs"] == {"dense": count_macs(dense, shape, length), "kept": count_macs(unet, shape, length)}
    assert record["macs_released"] == {"dense": released_macs(dense, shape), "kept": released_macs(unet, shape)}
    assert abs(record["macs"]["kept"] / record["macs"]["dense"] - budget) <= 0.01
    assert record["params"] == {"dense": count_params(dense), "kept": count_params(unet)}
    kinds = set()
    for path, layer in record["layers"].items():
        kept, old, new = layer["kept"], dense.get_submodule(path), unet.get_submodule(path)
        kinds.add(layer["kind"])
        assert kept == sorted(set(kept))
        if layer["kind"] == "ffn":
            assert len(kept) >= math.ceil(0.2 * layer["total"])
            assert new.net[0].proj.out_features == 2 * new.net[2].in_features == 2 * len(kept)  # no neuron lost twice
        if layer["kind"] == "heads":
            assert new.heads == len(kept) >= 1
            assert new.inner_dim == new.to_q.out_features == len(kept) * old.inner_dim // old.heads
            assert new.scale == old.scale
        if layer["kind"] == "resnet":
            groups, size = old.norm2.num_groups, layer["total"] // old.norm2.num_groups
            assert new.norm2.num_groups == groups
            assert {kept.count(c) for c in kept} == {1}
            assert len({sum(c // size == group for c in kept) for group in range(groups)}) == 1
            assert new.conv1.in_channels == old.conv1.in_channels
            assert new.conv2.out_channels == old.conv2.out_channels
    assert kinds == {"ffn", "heads", "resnet"}
    sample = output(unet, *inputs(unet, shape, length))
    assert sample.shape == (2, *shape)
    assert sample.isfinite().all()


def test_shares_are_even(net):
    _, record = pruned(net, 0.7)
    for kind, slack in (("ffn", 0.1), ("heads", 0.51), ("resnet", 0.51)):  # slack: half a step and what closes the gap
        kept = [len(v["kept"]) / v["total"] for v in record["layers"].values() if v["kind"] == kind]
        assert max(kept) - min(kept) <= slack


@pytest.mark.parametrize("kind", ["ffn", "heads"])
def test_a_removed_unit_equals_a_unit_whose_outputs_are_zero(net, kind):
    dense, shape, length = net
    _, record = pruned(net, 0.6)
    layers = {path: layer for path, layer in record["layers"].items() if layer["kind"] == kind}
    smaller, silenced = copy.deepcopy(dense), copy.deepcopy(dense)
    cut(smaller, layers)
    for path, layer in layers.items():
        reader = members(silenced.get_submodule(path), kind)[-1][0]
        columns = torch.arange(reader.in_features).view(layer["total"], -1)
        gone = [unit for unit in range(layer["total"]) if unit not in layer["kept"]]
        reader.weight.data[:, columns[gone].flatten()] = 0
    given = inputs(dense, shape, length)
    assert torch.allclose(output(smaller, *given), output(silenced, *given), atol=2e-5)
    assert not torch.allclose(output(smaller, *given), output(dense, *given), atol=1e-3)


def test_the_cut_is_the_one_torch_pruning_makes(net):
    dense, shape, length = net
    ours, record = pruned(net, 0.6)
    theirs = copy.deepcopy(dense)
    layers = narrowing.find_layers(theirs, macs_by_module(theirs, shape, length))
    groups = narrowing.coupled(theirs, layers, shape, length)
    for path, layer in record["layers"].items():
        width = channels(theirs.get_submodule(path), layer["kind"])
        gone = sorted(set(range(layer["total"])) - set(layer["kept"]))
        rows = torch.arange(width).view(layer["total"], -1)[gone].flatten().tolist()
        if rows:
            root, way_in = groups[path][0].dep.layer, groups[path][0].dep.pruning_fn
            groups[path]._DG.get_pruning_group(root, way_in, rows).prune()
    state = theirs.state_dict()
    assert all(torch.equal(state[key], value) for key, value in ours.state_dict().items())


def test_least_important_units_go_first():
    scores = torch.tensor([5.0, 1, 4, 2, 9, 8, 7, 6])
    layer = narrowing.Layer("x", "ffn", 8, 1)
    assert narrowing.select(scores, layer, 3) == [4, 5, 6]
    assert narrowing.select(scores, narrowing.Layer("x", "heads", 4, 1), 2) == [2, 3]
    assert narrowing.select(scores, narrowing.Layer("x", "heads", 2, 1), 1) == [1]
    assert narrowing.select(scores, narrowing.Layer("x", "resnet", 4, 1), 2) == [0, 2, 4, 5]  # two norm groups of four


def test_unreachable_budget_says_what_is_reachable_and_changes_nothing(net):
    dense, shape, length = net
    unet = copy.deepcopy(dense)
    with pytest.raises(UserError, match=r"goes down to 0\.\d+ .*keep_least") as caught:
        narrowing.prune(unet, "magnitude", narrowing.Goal(0.05, shape, length, **SETTINGS))
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), dense.parameters(), strict=True))
    least = float(str(caught.value).split("goes down to ")[1].split()[0])
    _, record = pruned(net, least + 1e-3)
    assert abs(record["macs"]["kept"] / record["macs"]["dense"] - least) <= 0.011
    with pytest.raises(UserError, match="cannot be met"):
        pruned(net, least + 0.05, keep_least=1.0)


def test_frozen_nets_stay_frozen_and_runs_repeat(net):
    first, record = pruned(net, 0.8)
    assert [p.requires_grad for p in first.parameters()] == [p.requires_grad for p in net[0].parameters()]
    again, same = pruned(net, 0.8)
    assert record == same
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_pruner_that_misses_the_budget_is_an_error(net, monkeypatch):
    lazy = SimpleNamespace(prune=lambda unet, goal: (unet, {}))
    monkeypatch.setattr(narrowing.registry, "get", lambda package, name: lazy)
    with pytest.raises(RuntimeError, match=r"left .* MACs, asked for was 0.8"):
        pruned(net, 0.8)


def test_nets_with_dropped_layers_are_nets(request, tmp_path):
    """Counted, hooked, width-pruned and stored like any other; MACs fall by what the dropped layers cost."""
    dense, shape, length = dense_net(request, "other_base")
    before = macs_by_module(dense, shape, length)
    gone = [
        "down_blocks.1.resnets.1",
        "down_blocks.0.attentions.1",
        "up_blocks.1.resnets.2",
        "up_blocks.2.attentions.2",
    ]
    dropped = {path: {"kind": "dropped", "total": 1, "kept": []} for path in gone}
    unet = copy.deepcopy(dense)
    cut(unet, dropped)
    assert [p.requires_grad for p in unet.parameters()] == [False] * len(list(unet.parameters()))
    assert not any(module.training for module in unet.modules())
    counts = macs_by_module(unet, shape, length)
    assert counts[""] == before[""] - sum(before[path] for path in gone)
    layers = narrowing.find_layers(unet, counts)
    assert not [layer for layer in layers if layer.path.startswith(tuple(gone))]
    assert [name for name, _ in hook_blocks(unet)] == [name for name, _ in hook_blocks(dense)]
    given = inputs(unet, shape, length)
    whole = output(unet, *given)
    assert whole.isfinite().all()

    smaller, record = pruned((unet, shape, length), 0.8)
    assert abs(record["macs"]["kept"] / counts[""] - 0.8) <= 0.01
    save_unet(smaller, record | {"layers": dropped | record["layers"]}, tmp_path)
    assert torch.equal(output(load_unet(tmp_path), *given), output(smaller, *given))


def test_unknown_coupling_is_an_error(net, monkeypatch):
    monkeypatch.setattr(narrowing, "members", lambda module, kind: members(module, kind)[1:])
    with pytest.raises(RuntimeError, match="couples other weights"):
        pruned(net, 0.8)


FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from lethe.models.unets import load_unet
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    given = load_file(folder + "/given.safetensors")
    out = load_unet(folder)(given["x"], given["t"], given["text"]).sample
    save_file({"out": out.detach().contiguous()}, folder + "/out.safetensors")
"""


def test_a_fresh_process_computes_the_same(request, tmp_path):
    """With the same bits of weights; what it computes may differ in the last ones where memory lies otherwise."""
    wanted = {}
    for name in NETS:
        net = dense_net(request, name)
        unet, record = pruned(net, 0.6)
        save_unet(unet, record, tmp_path / name)
        given = inputs(*net)
        save_file(dict(zip(("x", "t", "text"), given, strict=True)), tmp_path / name / "given.safetensors")
        wanted[name] = output(unet, *given)
        loaded = load_unet(tmp_path / name).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in unet.state_dict().items())
    words = [sys.executable, "-c", FRESH, *(str(tmp_path / name) for name in NETS)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in NETS:
        found = load_file(tmp_path / name / "out.safetensors")["out"]
        torch.testing.assert_close(found, wanted[name], rtol=1e-4, atol=1e-5)
