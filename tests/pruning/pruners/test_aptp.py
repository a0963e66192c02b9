"""An expert written here in the published format is taken over; what is no expert of this base is refused."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lethe.files.errors import UserError
from lethe.models.cutting import cut
from lethe.models.unets import hook_blocks, load_unet, save_unet
from lethe.pruning import narrowing
from lethe.pruning.pruners import aptp
from tests.tiny_training import same

SHAPE, LENGTH = (4, 8, 8), 5
GROUPS, SHARES = 4, 32
LAYOUT = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 2,
    "cross_attention_dim": 12,
    "attention_head_dim": (2, 4),
    "norm_num_groups": GROUPS,
    "use_linear_projection": True,
}


def net(seed=5, **other) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    types = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**types, **LAYOUT | other).eval().requires_grad_(False)


def order() -> list[tuple[str, int]]:
    """The vector's width gates, written out: residual blocks of a block, then attn1, attn2, ff of its transformers."""
    inside, found = "transformer_blocks.0", []
    for block, resnets, attentions, heads in (
        ("down_blocks.0", 2, 2, 2),
        ("down_blocks.1", 2, 0, 0),
        ("mid_block", 2, 1, 4),
        ("up_blocks.0", 3, 0, 0),
        ("up_blocks.1", 3, 3, 2),
    ):
        found += [(f"{block}.resnets.{i}", GROUPS) for i in range(resnets)]
        for i in range(attentions):
            for part, gates in (("attn1", heads), ("attn2", heads), ("ff", SHARES)):
                found.append((f"{block}.attentions.{i}.{inside}.{part}", gates))
    return found


DEPTHS = [
    "down_blocks.0.resnets.1",
    "down_blocks.0.attentions.1",
    "down_blocks.1.resnets.1",
    "up_blocks.0.resnets.2",
    "up_blocks.1.resnets.2",
    "up_blocks.1.attentions.2",
]
DROPPED = {"down_blocks.0.attentions.1", "up_blocks.0.resnets.2", "up_blocks.1.resnets.2"}
GATES = sum(gates for _, gates in order())


def a_vector() -> torch.Tensor:
    """Soft gates [1, N]: the first unit of every layer goes, exactly 0.5 stays, and what DROPPED names goes whole."""
    draws = torch.Generator().manual_seed(1)
    widths = []
    for _, gates in order():
        gate = 0.5 + 0.5 * torch.rand(gates, generator=draws)
        gate[0], gate[-1] = 0.49, 0.5
        widths.append(gate)
    depths = torch.tensor([0.2 if path in DROPPED else 0.9 for path in DEPTHS])
    return torch.cat([*widths, depths])[None]


def by_hand(unet) -> dict[str, torch.Tensor]:
    """The state dict of the expert with these gates, sliced out of the dense one parameter by parameter."""
    state, sliced = unet.state_dict(), {}
    kept = {path: torch.arange(1, gates) for path, gates in order()}
    for name, value in state.items():
        if any(name.startswith(f"{path}.") for path in DROPPED):
            continue
        path = next((p for p in kept if name.startswith(f"{p}.")), None)
        if path is not None:
            value = slice_by_hand(name[len(path) + 1 :], value, kept[path], dict(order())[path])
        sliced[name] = value.clone()
    return sliced


def slice_by_hand(name, value, kept, gates):
    def rows(tensor):
        return tensor.unflatten(0, (gates, -1))[kept].flatten(0, 1)

    def columns(tensor):
        return tensor.unflatten(1, (gates, -1))[:, kept].flatten(1, 2)

    if name.startswith(("conv1.", "time_emb_proj.", "norm2.", "to_q.", "to_k.", "to_v.")):
        return rows(value)
    if name == "net.0.proj.weight" or name == "net.0.proj.bias":
        return torch.cat([rows(half) for half in value.chunk(2)])
    if name in ("conv2.weight", "to_out.0.weight", "net.2.weight"):
        return columns(value)
    return value


def expert(folder, unet, vector=None, state=None, **config):
    """Writes a checkpoint folder as the released code does: the whole config with its gated block types."""
    (folder / "unet").mkdir(parents=True)
    torch.save(a_vector() if vector is None else vector, folder / "arch_vector.pt")
    save_file(by_hand(unet) if state is None else state, folder / "unet" / "diffusion_pytorch_model.safetensors")
    written = json.loads(unet.to_json_string()) | {
        "_class_name": "UNet2DConditionModelPruned",
        "down_block_types": ["CrossAttnDownBlock2DHalfGated", "DownBlock2DHalfGated"],
        "mid_block_type": "UNetMidBlock2DCrossAttnWidthGated",
        "up_block_types": ["UpBlock2DHalfGated", "CrossAttnUpBlock2DHalfGated"],
        "gated_ff": True,
        "ff_gate_width": SHARES,
    }
    (folder / "unet" / "config.json").write_text(json.dumps(written | config))
    return folder


def goal(folder, budget=0.5, tolerance=0.5):
    return narrowing.Goal(budget, SHAPE, LENGTH, 0.1, tolerance, {"checkpoint": str(folder)})


@torch.no_grad()
def output(unet):
    draws = torch.Generator().manual_seed(0)
    text = torch.randn(2, LENGTH, 12, generator=draws)
    return unet(torch.randn(2, *SHAPE, generator=draws), torch.tensor(321), text).sample


def test_gates_have_the_published_order():
    assert [(path, gates) for path, _, gates in aptp.width_gates(net(), SHARES)] == order()
    assert aptp.depth_gates(net()) == DEPTHS


def test_sd21_has_1606_widths_and_14_depths():
    """The length of the published vectors."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
    assert sum(gates for _, _, gates in aptp.width_gates(unet, 32)) == 1606
    assert len(aptp.depth_gates(unet)) == 14
    assert list(aptp.width_gates(unet, [32] * 5)) == list(aptp.width_gates(unet, 32))


def test_an_expert_is_taken_over_and_stored(tmp_path):
    dense = net()
    folder = expert(tmp_path / "expert", dense)
    aptp.check({"checkpoint": str(folder)})
    unet, record = narrowing.prune(copy.deepcopy(dense), "aptp", goal(folder))
    dropped = {path for path, layer in record["layers"].items() if layer["kind"] == "dropped"}
    assert dropped == DROPPED
    kept = record["layers"]["mid_block.resnets.0"]
    assert kept == {"kind": "groups", "total": GROUPS, "kept": [1, 2, 3]}
    assert unet.mid_block.resnets[0].norm2.num_groups == 3
    ff = record["layers"]["mid_block.attentions.0.transformer_blocks.0.ff"]
    assert ff["total"] == 128
    assert ff["kept"] == list(range(4, 128))
    assert "down_blocks.0.attentions.1.transformer_blocks.0.ff" not in record["layers"]
    assert len(hook_blocks(unet)) == 5

    smaller = copy.deepcopy(dense)  # the weights were sliced by hand: the cut must come to the same
    cut(smaller, record["layers"])
    assert same(smaller, unet)
    assert torch.equal(output(smaller), output(unet))

    save_unet(unet, record, tmp_path / "stored")
    again = load_unet(tmp_path / "stored").requires_grad_(False)
    assert torch.equal(output(again), output(unet))
    assert not unet.training


def test_the_experts_own_weights_count(tmp_path):
    dense = net()
    trained = {name: value + 0.01 for name, value in by_hand(dense).items()}
    unet, _ = narrowing.prune(net(), "aptp", goal(expert(tmp_path / "expert", dense, state=trained)))
    assert all(torch.equal(value, trained[name]) for name, value in unet.state_dict().items())


def test_the_budget_must_be_what_it_keeps(tmp_path):
    folder = expert(tmp_path / "expert", net())
    _, record = narrowing.prune(net(), "aptp", goal(folder))
    share = record["macs"]["kept"] / record["macs"]["dense"]
    with pytest.raises(UserError, match=f"--budget: 0.3 is not what .* {share:.4f} of the MACs"):
        narrowing.prune(net(), "aptp", goal(folder, 0.3, 0.01))
    narrowing.prune(net(), "aptp", goal(folder, round(share, 4), 0.01))


def refused(folder, *words, base=None):
    with pytest.raises(UserError) as caught:
        aptp.check({"checkpoint": str(folder)})
        narrowing.prune(base or net(), "aptp", goal(folder))
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in (str(folder), *words)), text


def test_what_is_no_expert_of_this_base_is_refused(tmp_path):
    dense, vector = net(), a_vector()
    refused(tmp_path / "nothing", "arch_vector.pt")
    refused(
        expert(tmp_path / "long", dense, torch.cat([vector, vector], 1)), f"{2 * vector.numel()} gates", "another base"
    )
    refused(expert(tmp_path / "two", dense, torch.cat([vector, vector])), "no single architecture vector")
    refused(expert(tmp_path / "list", dense, [1, 2]), "no single architecture vector")
    empty = vector.clone()
    empty[0, :GROUPS] = 0
    refused(expert(tmp_path / "empty", dense, empty), "keeps 0 of 4 gates", "down_blocks.0.resnets.0")
    wider = {name: torch.cat([value, value]) for name, value in by_hand(dense).items()}
    refused(expert(tmp_path / "wide", dense, state=wider), "weights do not fit", "size mismatch")
    few = dict(list(by_hand(dense).items())[:-1])
    refused(expert(tmp_path / "few", dense, state=few), "weights do not fit", "Missing key")
    refused(expert(tmp_path / "other", dense), "block_out_channels", "[16, 32]", base=net(block_out_channels=(16, 48)))
    refused(
        expert(tmp_path / "full", dense, down_block_types=["DownBlock2DGated"] * 2), "DownBlock2DGated", "HalfGated"
    )
    refused(expert(tmp_path / "ungated", dense, gated_ff=False), "feed-forwards without gates")


def test_a_layer_that_changes_the_width_cannot_go(tmp_path):
    single = net(layers_per_block=1)
    gates = sum(gates for _, _, gates in aptp.width_gates(single, SHARES))
    depths = aptp.depth_gates(single)
    vector = torch.ones(1, gates + len(depths))
    vector[0, gates + depths.index("down_blocks.1.resnets.0")] = 0
    folder = expert(tmp_path / "expert", single, vector, state={}, layers_per_block=1)
    refused(folder, "16 to 32 channels", "another base", base=single)


def test_files_that_are_not_whole(tmp_path):
    folder = expert(tmp_path / "expert", net())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        aptp.check({"checkpoint": str(folder)})
    weights.unlink()
    with pytest.raises(UserError, match="no such weight file"):
        aptp.check({"checkpoint": str(folder)})
    folder = expert(tmp_path / "second", net())
    (folder / "arch_vector.pt").write_bytes(b"what is this?")
    refused(folder, "not a file of one tensor")
    (folder / "arch_vector.pt").rename(folder / "unet" / "arch_vector.pt")  # the released trainer puts one here too
    torch.save(a_vector(), folder / "unet" / "arch_vector.pt")
    aptp.check({"checkpoint": str(folder)})
    assert aptp.read_vector(folder).shape == (a_vector().numel(),)


def test_a_check_costs_no_torch():
    code = (
        "import sys; import lethe.pruning.pruners.aptp; assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_in_the_vector_is_not_run(tmp_path, capsys):
    folder = expert(tmp_path / "expert", net())
    torch.save(Evil(), folder / "arch_vector.pt")
    refused(folder, "not a file of one tensor")
    assert "must not run" not in capsys.readouterr().out
