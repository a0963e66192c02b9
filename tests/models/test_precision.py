"""Rounded weights against closed forms and torchao's integers; which layers are rounded, and what they take."""

import copy

import pytest
import torch
from torch import nn

from lethe.files.errors import UserError
from lethe.models import precision
from lethe.models.pipelines import load_base

STEP = 0.25


@pytest.fixture(scope="module")
def unet(tiny_base) -> nn.Module:
    return load_base(str(tiny_base), None, ["unet"]).unet.eval()


def asked(unet: nn.Module) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=draws), torch.randn(2, 16, 16, generator=draws)
    with torch.inference_mode():
        return unet(x, torch.tensor(500), encoder_hidden_states=text, return_dict=False)[0]


@pytest.mark.parametrize(("bits", "largest"), [(8, 127.5), (4, 7.5)])
def test_known_weights(bits, largest):
    """A step is 2 max|w| / (2^b - 1); halves go to the even number; the largest is cut by half a step."""
    rows = torch.tensor([[largest, 0.5, 1.5, -1.4, 0.0], [-largest, 2.6, -0.6, 3.0, 0.4], [0.0] * 5])
    whole, steps = precision.quantised(STEP * rows, bits)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert whole.dtype == torch.int8 and steps.dtype == torch.float32
    assert whole.tolist() == [[most, 0, 2, -1, 0], [least, 3, -1, 3, 0], [0] * 5]
    assert steps[:2].tolist() == [[STEP], [STEP]]
    assert torch.equal(precision.multiplied(whole, steps)[:2], STEP * whole[:2])
    assert torch.equal(precision.multiplied(whole, steps)[2], torch.zeros(5))


@pytest.mark.parametrize(
    ("bits", "first", "last", "total", "squares", "steps"),
    [
        (
            8,
            [0, 107, 116, 18, -96, -122, -36, 84, 126, 53, -69, -128],
            [30, -88, -125, -47, 74, 127, 64, -59, -127, -79, 42, 124],
            151,
            1038599,
            [0.007843060418963432, 0.007839374244213104],
        ),
        (
            4,
            [0, 6, 7, 1, -6, -7, -2, 5, 7, 3, -4, -8],
            [2, -5, -7, -3, 4, 7, 4, -3, -7, -5, 2, 7],
            7,
            3479,
            [0.1333320289850235, 0.1333215832710266, 0.13326935470104218, 0.13322757184505463],
        ),
    ],
)
def test_integers_and_steps_are_those_of_torchao(bits, first, last, total, squares, steps):
    """torchao 0.18.0, IntxWeightOnlyConfig(weight_dtype=torch.intB, granularity=PerAxis(0) or PerGroup(32))."""
    whole, found = precision.quantised(torch.sin(torch.arange(128.0)).view(2, 64), bits)
    assert whole[0, :12].tolist() == first and whole[1, -12:].tolist() == last
    assert (whole.long().sum().item(), whole.long().square().sum().item()) == (total, squares)
    assert found.flatten().tolist() == pytest.approx(steps, rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 64), (6, 50), (6, 7), (5, 33, 3, 3), (5, 32, 1, 1)])
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step(shape, bits):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    whole, steps = precision.quantised(weight, bits)
    groups = -(-shape[1] // 32) if bits == 4 else 1
    assert whole.shape == shape and steps.shape == (shape[0], groups, *shape[2:])
    each = steps.repeat_interleave(32 if groups > 1 else shape[1], 1)[:, : shape[1]]
    found = precision.multiplied(whole, steps)
    assert found.shape == shape
    assert ((found - weight).abs() <= each / 2 * (1 + 1e-4)).all()
    assert torch.equal((found / each).round(), whole.float())  # on the grid of its steps: rounding again moves nothing


def test_a_group_does_not_feel_another_groups_large_weights():
    weight = torch.full((1, 64), 0.1)
    alone = precision.multiplied(*precision.quantised(weight, 4))
    weight[0, 40] = 100.0
    found = precision.multiplied(*precision.quantised(weight, 4))
    assert torch.equal(found[:, :32], alone[:, :32])
    assert found[0, 41] == 0


def test_float32_is_the_unet_itself(unet):
    assert precision.applied(unet, "float32") is unet


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_all_layers_but_the_first_and_the_last_are_rounded(unet, name):
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    made = precision.applied(unet, name)
    after = made.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    layers = {key for key, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    changed = {key for key in before if not torch.equal(after[key], before[key])}
    assert changed == {f"{layer}.weight" for layer in layers - {"conv_in", "conv_out"}}
    assert {value.dtype for value in after.values()} == {torch.float32}
    exact, found = asked(unet), asked(made)
    assert 0 < (found - exact).abs().mean() < (0.02 if name == "int8" else 0.3) * exact.abs().mean()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_takes_and_gives_float32(unet, name):
    made = precision.applied(unet, name)
    assert {parameter.dtype for parameter in made.parameters()} == {getattr(torch, name)}
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float32}
    exact, found = asked(unet), asked(made)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_float16_is_the_nearer_one(unet):
    exact = asked(unet)
    errors = {name: (asked(precision.applied(unet, name)) - exact).abs().mean() for name in precision.HALF}
    assert errors["float16"] < errors["bfloat16"]


def test_an_unknown_precision_is_refused(unet):
    with pytest.raises(
        UserError, match=r"sample\.precision: 'int3' is not one of float32, bfloat16, float16, int8, int4"
    ):
        precision.applied(unet, "int3")


def test_bytes_of_a_known_net():
    """conv_in 4 x 3 x 9 + 4, stays; mix 6 x 40 + 6: in 8 bits a step a row, in 4 bits two."""
    net = nn.Sequential()
    net.add_module("conv_in", nn.Conv2d(3, 4, 3))
    net.add_module("mix", nn.Linear(40, 6))
    kept = 4 * 3 * 9 + 4 + 6
    assert precision.stored(net, "float32") == 4 * (kept + 240)
    assert precision.stored(net, "bfloat16") == precision.stored(net, "float16") == 2 * (kept + 240)
    assert precision.stored(net, "int8") == 4 * kept + 240 + 4 * 6
    assert precision.stored(net, "int4") == 4 * kept + 120 + 4 * 6 * 2


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
def test_bytes_are_those_of_the_integers_and_steps(unet, name, bits):
    layers = precision.rounded(unet)
    parts = [precision.quantised(layer.weight, bits) for layer in layers]
    rest = sum(parameter.numel() for parameter in unet.parameters()) - sum(layer.weight.numel() for layer in layers)
    packed = sum(-(-whole.numel() * bits // 8) + 4 * steps.numel() for whole, steps in parts)
    assert precision.stored(unet, name) == 4 * rest + packed
    assert precision.stored(unet, name) < precision.stored(unet, "float32") / 2


def test_rounding_takes_no_part_of_a_gradient(unet):
    made = precision.applied(copy.deepcopy(unet).requires_grad_(True), "int4")
    assert not any(layer.weight.requires_grad for layer in precision.rounded(made))
