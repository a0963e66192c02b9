"""Blocks go as in BK-SDM's table, weights are inherited from where it says, and the result opens without us."""

import copy
import hashlib
import inspect
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from lethe.files.errors import UserError
from lethe.models.macs import count_params
from lethe.models.unets import DEFAULTED, load_unet, of_config, save_unet
from lethe.pruning import narrowing
from lethe.pruning.pruners import _blocks
from tests.tiny_training import same

SHAPE, LENGTH = (4, 8, 8), 5
ATELIER = Path(__file__).resolve().parents[3] / "models/atelier/pipeline/unet"


def net(widths=(16, 32, 32), layers=2, heads=(2, 4, 4), mid="UNetMidBlock2DCrossAttn") -> UNet2DConditionModel:
    """Laid out as SD 2.1: attention everywhere but innermost, heads a stage."""
    torch.manual_seed(5)
    inner = len(widths) - 1
    return (
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=("CrossAttnDownBlock2D",) * inner + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * inner,
            mid_block_type=mid,
            cross_attention_dim=12,
            attention_head_dim=heads,
            norm_num_groups=8,
            use_linear_projection=True,
        )
        .eval()
        .requires_grad_(False)
    )


def left(dense, name) -> float:
    """The share of MACs that the blocks leave, from the refusal of a budget above it."""
    with pytest.raises(UserError, match="is more than these blocks leave") as caught:
        narrowing.prune(dense, name, narrowing.Goal(0.999, SHAPE, LENGTH, 0.1, 0.0001))
    share, again = str(caught.value).split(" leave, ")[1].split(" of the MACs; ask for ")
    assert again.startswith(share)
    return float(share)


def removed(dense, name, budget=None):
    goal = narrowing.Goal(budget or left(dense, name), SHAPE, LENGTH, 0.1, 0.001)
    return narrowing.prune(copy.deepcopy(dense), name, goal)


@torch.no_grad()
def output(unet):
    draws = torch.Generator().manual_seed(0)
    text = torch.randn(2, LENGTH, 12, generator=draws)
    return unet(torch.randn(2, *SHAPE, generator=draws), torch.tensor(321), text).sample


INNER = [
    "down_blocks.0.resnets.1",
    "down_blocks.0.attentions.1",
    "down_blocks.1.resnets.1",
    "down_blocks.1.attentions.1",
    "down_blocks.2.resnets.1",
]
OUTER = [
    "up_blocks.1.resnets.1",
    "up_blocks.1.attentions.1",
    "up_blocks.2.resnets.1",
    "up_blocks.2.attentions.1",
]
GONE = {
    "bk_base": [*INNER, "up_blocks.0.resnets.1", *OUTER],
    "bk_small": [*INNER, "mid_block", "up_blocks.0.resnets.1", *OUTER],
    "bk_tiny": [*INNER[:4], "down_blocks.1.downsamplers", "down_blocks.2", "mid_block", "up_blocks.0", *OUTER],
}
# student -> dense: what does not start from its own place (the paper's table, for three stages)
HERITAGE = {
    f"up_blocks.{k}.{kind}.1": f"up_blocks.{k}.{kind}.2" for k in range(3) for kind in ("resnets", "attentions")
}
SHIFTED = {
    f"up_blocks.{k}.{place}": f"up_blocks.{k + 1}.{there}"
    for k in range(2)
    for place, there in (
        ("resnets.0", "resnets.0"),
        ("resnets.1", "resnets.2"),
        ("attentions.0", "attentions.0"),
        ("attentions.1", "attentions.2"),
        ("upsamplers.0", "upsamplers.0"),
    )
}


@pytest.mark.parametrize("name", list(GONE))
def test_blocks_and_heritage(name):
    dense = net()
    unet, record = removed(dense, name)
    assert record["removed"] == GONE[name]
    assert record["layers"] == {}
    assert unet.config.layers_per_block == 1
    assert (unet.mid_block is None) == (name != "bk_base")
    assert len(unet.down_blocks) == len(unet.up_blocks) == (2 if name == "bk_tiny" else 3)
    state = dense.state_dict()
    for key, value in unet.state_dict().items():
        own = next((p for p in (SHIFTED if name == "bk_tiny" else HERITAGE) if key.startswith(f"{p}.")), None)
        there = (SHIFTED if name == "bk_tiny" else HERITAGE)[own] + key[len(own) :] if own else key
        assert torch.equal(value, state[there]), key
        assert value.data_ptr() != state[there].data_ptr()
    assert not unet.training
    assert output(unet).isfinite().all()


@pytest.mark.parametrize("name", ["bk_small", "bk_tiny"])
def test_single_layers_lose_what_is_innermost(name):
    """With a layer a block, the result is the dense net with its middle taken out."""
    dense = net(layers=1)
    unet, record = removed(dense, name)
    assert "mid_block" in record["removed"]
    dense.mid_block = None
    if name == "bk_tiny":
        dense.down_blocks, dense.up_blocks = dense.down_blocks[:-1], dense.up_blocks[1:]
        dense.down_blocks[-1].downsamplers = None
        dense.num_upsamplers = 1
    assert torch.equal(output(unet), output(dense))


def test_a_wider_stage_that_goes_takes_its_channels_along():
    dense = net(widths=(16, 32), layers=1, heads=(2, 4))
    unet, _ = removed(dense, "bk_tiny")
    old, new = dense.up_blocks[1].resnets[0], unet.up_blocks[0].resnets[0]
    assert (old.conv1.in_channels, new.conv1.in_channels) == (32 + 16, 16 + 16)
    kept = [*range(16), *range(32, 48)]
    assert torch.equal(new.conv1.weight, old.conv1.weight[:, kept])
    assert torch.equal(new.conv_shortcut.weight, old.conv_shortcut.weight[:, kept])
    assert torch.equal(new.norm1.weight, old.norm1.weight[kept])
    assert torch.equal(new.conv1.bias, old.conv1.bias)
    assert output(unet).isfinite().all()


@pytest.mark.parametrize("name", list(GONE))
def test_the_library_alone_opens_it(name, tmp_path):
    unet, record = removed(net(), name)
    save_unet(unet, record, tmp_path)
    plain, info = UNet2DConditionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    assert not any(info.values())
    assert same(plain, unet)
    assert torch.allclose(output(plain), output(unet), atol=1e-6)
    assert torch.equal(output(load_unet(tmp_path).requires_grad_(False)), output(unet))


def test_a_smaller_budget_is_met_by_magnitude(tmp_path):
    dense = net()
    share = left(dense, "bk_base")
    unet, record = removed(dense, "bk_base", 0.7 * share)
    assert abs(record["macs"]["kept"] / record["macs"]["dense"] - 0.7 * share) <= 0.001
    assert record["removed"] == GONE["bk_base"]
    assert record["layers"]
    save_unet(unet, record, tmp_path)
    assert torch.equal(output(load_unet(tmp_path).requires_grad_(False)), output(unet))
    with pytest.raises(UserError, match="goes down to"):
        removed(dense, "bk_base", 0.1)


def test_nothing_to_remove():
    refusals = [
        ("bk_base", net(layers=1), "layers_per_block 1"),
        ("bk_small", net(mid=None), "no mid block"),
        ("bk_tiny", net(widths=(16,), heads=(2,)), "one stage"),
        ("bk_tiny", net(widths=(32, 16), heads=(4, 2)), "narrower"),
    ]
    for name, dense, words in refusals:
        with pytest.raises(UserError, match=words) as caught:
            narrowing.prune(dense, name, narrowing.Goal(0.3, SHAPE, LENGTH, 0.1, 0.1))
        assert "\n" not in str(caught.value)


# what SD 1.4's config.json says of its U-Net: no mid_block_type among it, and half of the library's keys are missing
SD14 = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
CUTS = {"bk_base": (False, False), "bk_small": (True, False), "bk_tiny": (True, True)}


def made(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def test_sizes_are_those_that_bk_sdm_published():
    """Millions of parameters: 859.52 and 579.38, 482.35, 323.38 (arXiv 2305.15798, table 1)."""
    dense = made(SD14)
    found = {"dense": count_params(dense)}
    for name, cuts in CUTS.items():
        with torch.device("meta"):
            found[name] = count_params(of_config(_blocks.smaller(dense, *cuts)))
    millions = {name: round(count / 1e6, 2) for name, count in found.items()}
    assert millions == {"dense": 859.52, "bk_base": 579.38, "bk_small": 482.35, "bk_tiny": 323.38}


def test_a_key_that_the_config_leaves_out_counts_as_any_other():
    """Every optional key in turn: what is left is the same whether the base's config.json has it or not."""
    defaults = {
        key: one.default
        for key, one in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
        if one.default is not inspect.Parameter.empty
    }
    assert "mid_block_type" in defaults
    narrow = {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 8, "layers_per_block": 2}
    wanted = defaults | narrow | {
        "layers_per_block": 1,
        "mid_block_type": None,
        "down_block_types": defaults["down_block_types"][:3],
        "block_out_channels": (32, 32, 32),
        "up_block_types": defaults["up_block_types"][1:],
    }  # fmt: skip
    for key, default in defaults.items():
        lacking = made({name: value for name, value in (defaults | narrow).items() if name != key})
        assert key in lacking.config[DEFAULTED], key
        with torch.device("meta"):
            small = of_config(_blocks.smaller(lacking, mid=True, stage=True))
        own = {key: default[:3]} if key == "block_out_channels" else {key: default} if key in narrow else {}
        own |= {"layers_per_block": 1}
        assert small.mid_block is None, key
        assert {name: small.config[name] for name in defaults} == wanted | own, key


@pytest.mark.parametrize("name", ["bk_small", "bk_tiny"])
def test_a_base_whose_config_has_no_mid_block_type_loses_it(name, tmp_path):
    dense = net()
    state, config = dense.state_dict(), json.loads(dense.to_json_string())
    del config["mid_block_type"]
    lacking = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    lacking.load_state_dict(state)
    unet, record = removed(lacking, name)
    assert unet.mid_block is None
    assert record["removed"] == GONE[name]
    assert same(unet, removed(dense, name)[0])
    save_unet(unet, record, tmp_path)
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["mid_block_type"] is None
    assert torch.equal(output(load_unet(tmp_path).requires_grad_(False)), output(unet))


@pytest.mark.parametrize(("name", "digest"), [("bk_small", "5cc6894e967acf6b"), ("bk_tiny", "2527e2fb8e4bdfde")])
def test_atelier_gives_what_it_gave_before_that(name, digest):
    """Bit for bit: its config.json has every key. Weights are copied, not computed, so they are alike anywhere."""
    dense = UNet2DConditionModel.from_pretrained(ATELIER).eval().requires_grad_(False)
    assert DEFAULTED not in dense.config
    with torch.device("meta"):
        small = of_config(_blocks.smaller(dense, *CUTS[name]))
    found = hashlib.sha256()
    for key, value in sorted(_blocks.inherited(dense, small, CUTS[name][1]).items()):
        found.update(key.encode())
        found.update(value.numpy().tobytes())
    assert found.hexdigest()[:16] == digest
