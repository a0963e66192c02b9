"""The counter against closed forms."""

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from lethe.bench.networks import SIZES
from lethe.models.macs import count_macs, count_params, macs_by_module, released_macs, trace, trace_released
from lethe.models.pipelines import latent_shape, load_base


def meta(*shape: int):
    return torch.zeros(*shape, device="meta")


def test_conv():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert trace(conv, meta(1, 3, 8, 10))[""] == 8 * 3 * 3 * 3 * 4 * 5
    assert count_params(conv) == 8 * 3 * 3 * 3 + 8


def test_linear():
    assert trace(nn.Linear(5, 7), meta(1, 11, 5))[""] == 11 * 5 * 7


def test_self_attention():
    heads = Attention(query_dim=32, heads=4, dim_head=8)
    projections, products = 4 * 10 * 32 * 32, 2 * 10 * 10 * 32
    assert trace(heads, meta(1, 10, 32))[""] == projections + products


def test_cross_attention_counts_keys_of_the_text():
    heads = Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8)
    queries, keys = 10, 7
    projections = 2 * queries * 32 * 32 + 2 * keys * 24 * 32
    assert trace(heads, meta(1, queries, 32), meta(1, keys, 24))[""] == projections + 2 * queries * keys * 32


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def unet(request):
    return load_base(str(request.getfixturevalue(request.param)), None, ["unet"]).unet


def test_a_net_is_the_sum_of_its_convolutions_linears_and_attentions(unet):
    shape = latent_shape(unet)
    counts = macs_by_module(unet, shape, 9)
    assert counts["conv_in"] == unet.config.in_channels * unet.config.block_out_channels[0] * 9 * shape[1] * shape[2]
    leaves = sum(counts.get(name, 0) for name, part in unet.named_modules() if isinstance(part, nn.Conv2d | nn.Linear))
    products = 0
    for name, part in unet.named_modules():
        if isinstance(part, Attention):
            tokens = counts[f"{name}.to_q"] // (part.to_q.in_features * part.inner_dim)
            products += 2 * tokens * (9 if part.is_cross_attention else tokens) * part.inner_dim
    assert counts[""] == leaves + products > 0
    assert counts[""] == count_macs(unet, shape, 9)


def test_longer_text_costs_in_cross_attention_alone(unet):
    shape = latent_shape(unet)
    short, long = macs_by_module(unet, shape, 5), macs_by_module(unet, shape, 15)
    cross = [name for name, part in unet.named_modules() if isinstance(part, Attention) and part.is_cross_attention]
    assert long[""] - short[""] == sum(long[name] - short[name] for name in cross) > 0


def test_counting_touches_neither_weights_nor_mode(unet):
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    count_macs(unet, latent_shape(unet), 3)
    assert all(torch.equal(before[key], value) for key, value in unet.state_dict().items())
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in unet.parameters())


def test_the_released_count_by_hand():
    """A convolution of 3x3, a norm, SiLU at two places, each counted twice, and cross-attention as self-attention."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 2, 1), nn.SiLU())
    places = 4 * 6
    convolutions = (8 * 27 + 8 + 2 * 8 + 2) * places
    assert trace_released(net, meta(1, 3, 4, 6)) == convolutions + 2 * 8 * places + 2 * (2 * 8 + 2 * 2) * places

    heads = Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8)
    queries, keys = 10, 7
    linear = 2 * queries * 32 * 32 + 2 * keys * 24 * 32 + 32  # the output alone has a bias
    products = 2 * queries * queries * 32 + 4 * queries * queries
    assert trace_released(heads, meta(1, queries, 32), meta(1, keys, 24)) == linear + products

    assert trace_released(nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 7)), meta(1, 11, 5)) == 55 + 11 * 35 + 7


def test_sd21_is_as_large_as_the_released_counter_and_ours_say():
    """10^9 MACs at 768 pixels: 1,387.5 with the released counter and its one text token, 1,074.6 truly."""
    config = yaml.safe_load(SIZES.read_text())["sd21"]["unet"]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert round(released_macs(unet, (4, 96, 96)) / 1e9, 1) == 1387.5
    assert round(count_macs(unet, (4, 96, 96), 77) / 1e9, 1) == 1074.6


def test_the_released_count_leaves_no_hook(unet):
    released_macs(unet, latent_shape(unet))
    assert not any(part._forward_hooks for part in unet.modules())
