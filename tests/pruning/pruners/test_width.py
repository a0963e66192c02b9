"""Criteria against their formulas, computed here from the weights and gradients themselves."""

import copy

import pytest
import torch

from lethe.files.errors import UserError
from lethe.models.cutting import channels, members
from lethe.models.macs import macs_by_module
from lethe.models.pipelines import latent_shape, load_base, text_length
from lethe.params import registry
from lethe.pruning import calibration, narrowing
from lethe.pruning.pruners import magnitude, random
from lethe.training import losses
from tests.tiny_training import encoded, same

BASES = ["tiny_base", "other_base"]
LOOKS = {"pictures": 4, "stride": 300, "batch": 4}


def parts(path):
    loaded = load_base(str(path), None, ["unet", "scheduler"])
    return loaded.unet, latent_shape(loaded.unet), text_length(str(path), None), loaded.scheduler


@pytest.fixture(scope="module")
def tiny(tiny_base):
    return parts(tiny_base)


@pytest.fixture(scope="module", params=BASES)
def base(request):
    return parts(request.getfixturevalue(request.param))


def looking(base) -> calibration.Calibration:
    unet, _, length, scheduler = base
    schedule = losses.schedule(scheduler, None, "legacy", torch.device("cpu"))
    return calibration.Calibration(encoded(unet, length=length), schedule)


def pruned(base, name, budget=0.7, **options):
    data = looking(base) if registry.needs("pruners", name) else None
    goal = narrowing.Goal(budget, base[1], base[2], 0.2, 0.01, options, data)
    return narrowing.prune(copy.deepcopy(base[0]), name, goal)


def groups_of(base):
    unet, shape, length, _ = base
    layers = narrowing.find_layers(unet, macs_by_module(unet, shape, length))
    return layers, narrowing.coupled(unet, layers, shape, length)


def per_channel(values, dim, width):
    """[width]: sums over everything but a weight's pruned dimension; halves of the same units together."""
    return values.transpose(0, dim).flatten(1).sum(1).view(-1, width)


def test_magnitude_is_a_sum_of_squares(base):
    unet = base[0]
    layers, groups = groups_of(base)
    scores = magnitude.importance(unet, groups)
    for layer in layers:
        module = unet.get_submodule(layer.path)
        width = channels(module, layer.kind)
        squares = torch.zeros(width)
        for part, dim in members(module, layer.kind):
            if part.weight.dim() > 1:  # norms are not weighed
                squares += per_channel(part.weight.detach().square(), dim, width).sum(0)
        assert torch.allclose(scores[layer.path] / scores[layer.path].mean(), squares / squares.mean(), rtol=1e-4)


def reference_gradients(base, weights, timesteps):
    """d/dw of the sum over t of the mean squared error of the predicted noise, by autograd alone."""
    unet, _, _, scheduler = base
    look = looking(base)
    fixed = calibration.fixed(look.data, LOOKS["pictures"])
    total = 0.0
    for t in timesteps:
        alphabar = scheduler.alphas_cumprod[t]
        a, s = alphabar.sqrt(), (1 - alphabar).sqrt()
        noisy = a * fixed.latents + s * fixed.noise
        output = unet(noisy, torch.full((len(noisy),), t), fixed.text).sample
        noise = output if scheduler.config.prediction_type == "epsilon" else a * output + s * noisy
        total = total + (noise - fixed.noise).square().mean()
    return torch.autograd.grad(total, weights)


@pytest.mark.parametrize("multivariable", [True, False])
def test_taylor_scores(base, multivariable):
    unet = base[0]
    layers, groups = groups_of(base)
    look = looking(base)
    scores = calibration.taylor(unet, groups, look, LOOKS, multivariable=multivariable)
    assert look.budget.student_forward == look.budget.student_backward == 4 * 4  # t = 0, 300, 600, 900
    assert all(p.grad is None and not p.requires_grad for p in unet.parameters())

    dense = copy.deepcopy(unet).requires_grad_(True)
    weights = [part.weight for part in dense.modules() if getattr(part, "weight", None) is not None]
    gradients = reference_gradients((dense, *base[1:]), weights, [0, 300, 600, 900])
    found = dict(zip(map(id, weights), gradients, strict=True))
    for layer in layers:
        module = dense.get_submodule(layer.path)
        width = channels(module, layer.kind)
        wanted = torch.zeros(width)
        for part, dim in members(module, layer.kind):
            if part.weight.dim() > 1:
                product = (part.weight * found[id(part.weight)]).detach()
                product = product if multivariable else product.abs()
                wanted += per_channel(product, dim, width).abs().sum(0)
        ratio = scores[layer.path] / wanted
        assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3), layer.path


def test_micro_batches_change_nothing(tiny):
    _, groups = groups_of(tiny)
    whole = calibration.taylor(tiny[0], groups, looking(tiny), LOOKS, multivariable=False)
    parts = calibration.taylor(tiny[0], groups, looking(tiny), LOOKS | {"batch": 3}, multivariable=False)
    assert all(torch.allclose(whole[path], parts[path], rtol=1e-3, atol=1e-9) for path in whole)


class Falling(torch.nn.Module):
    """A model of the noise that knows it: wrong by `errors[t]` everywhere, so that L_t = errors[t]^2."""

    def __init__(self, noise, errors):
        super().__init__()
        self.noise, self.errors, self.asked = noise, errors, []
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, noisy, t, text, return_dict):
        self.asked.append(int(t[0]))
        return ((self.noise + self.errors[int(t[0])]) * self.one,)


def test_diff_pruning_stops_where_the_loss_has_fallen():
    schedule = losses.Schedule(torch.linspace(1, 0.1, 6), torch.linspace(0.1, 1, 6), torch.ones(6), "epsilon")
    noise, errors = torch.zeros(2, 1, 2, 2), [1.0, 2.0, 1.0, 0.5, 0.1, 3.0]
    look = calibration.Calibration(None, schedule)
    pictures = calibration.Fixed(torch.zeros(2, 1, 2, 2), noise, torch.zeros(2, 1, 1))
    how = {"stride": 1, "batch": 2}
    for threshold, last in ((0.05, 4), (0.1, 3), (0.3, 2), (0.0, 5)):  # of 4, the largest so far
        model = Falling(noise, errors)
        seen = calibration.accumulate(model, pictures, look, how, threshold)
        assert model.asked == list(range(last + 1))
        assert seen == pytest.approx([error**2 for error in errors[: last + 1]])
        assert float(model.one.grad) == pytest.approx(2 * sum(error**2 for error in errors[: last + 1]))
    model = Falling(noise, errors)
    assert calibration.accumulate(model, pictures, look, how | {"stride": 2}) == []  # without a threshold none is read
    assert model.asked == [0, 2, 4]


@pytest.mark.parametrize(
    ("prediction", "scale"), [("epsilon", lambda a, s: 1 + 0 * a), ("v_prediction", lambda a, s: a**2)]
)
def test_the_loss_is_that_of_the_noise(prediction, scale):
    a = torch.tensor([0.9, 0.5])
    schedule = losses.Schedule(a, (1 - a**2).sqrt(), torch.ones(2), prediction)
    assert torch.allclose(calibration.noise_scale(schedule), scale(a, schedule.s))


def test_the_scale_of_sample_prediction():
    schedule = losses.Schedule(torch.tensor([0.8]), torch.tensor([0.6]), torch.ones(1), "sample")
    z, e, wrong = torch.tensor(0.3), torch.tensor(-0.7), torch.tensor(0.5)
    noisy = 0.8 * z + 0.6 * e
    noise = (noisy - 0.8 * wrong) / 0.6
    assert torch.isclose((noise - e) ** 2, calibration.noise_scale(schedule)[0] * (wrong - z) ** 2)


def test_more_pictures_than_there_are(tiny):
    with pytest.raises(UserError, match=r"prune\.pictures: 99 is more than the 6 pictures in --data"):
        pruned(tiny, "taylor", **LOOKS | {"pictures": 99})


@pytest.mark.parametrize(
    ("name", "options"),
    [("taylor", LOOKS), ("diff_pruning", LOOKS | {"threshold": 0.05}), ("random", {"draw": 1}), ("magnitude", {})],
)
def test_width_pruners_repeat_and_differ_from_magnitude(tiny, name, options):
    unet, record = pruned(tiny, name, **options)
    again, same_record = pruned(tiny, name, **options)
    assert record == same_record
    assert same(unet, again)
    assert abs(record["macs"]["kept"] / record["macs"]["dense"] - 0.7) <= 0.01
    assert (record["pruner"], record["options"], record["removed"]) == (name, options, [])
    _, plain = pruned(tiny, "magnitude")
    assert (record["layers"] == plain["layers"]) == (name == "magnitude")


def test_a_nan_in_the_gradients_is_an_error(tiny):
    broken = copy.deepcopy(tiny[0])
    broken.conv_in.weight.data[0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        pruned((broken, *tiny[1:]), "taylor", **LOOKS)


def test_random_draws(tiny):
    _, first = pruned(tiny, "random", draw=0)
    _, second = pruned(tiny, "random", draw=1)
    assert first["layers"] != second["layers"]
    assert first["macs"] == second["macs"]  # the same number of units goes from every layer
    _, groups = groups_of(tiny)
    scores = random.importance(tiny[0], groups, 0)
    alone = random.importance(tiny[0], dict([list(groups.items())[-1]]), 0)
    assert all(torch.equal(scores[path], value) for path, value in alone.items())


def test_random_init_has_the_shapes_of_magnitude_and_weights_of_its_own(tiny):
    state = torch.random.get_rng_state()
    unet, record = pruned(tiny, "random_init", draw=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    inherited, plain = pruned(tiny, "magnitude")
    assert record["layers"] == plain["layers"]
    mine, theirs = unet.state_dict(), inherited.state_dict()
    assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in theirs.items()}
    differ = [key for key, value in mine.items() if not torch.equal(value, theirs[key])]
    assert set(mine) - set(differ) <= {key for key in mine if "norm" in key}  # norms begin alike: ones and zeros
    bound = 1 / (unet.conv_in.weight[0].numel() ** 0.5)  # uniform in +-1/sqrt(inputs), torch's start of a convolution
    assert float(mine["conv_in.weight"].abs().max()) <= bound
    assert not same(unet, pruned(tiny, "random_init", draw=1)[0])
    assert same(unet, pruned(tiny, "random_init", draw=0)[0])
    assert not unet.training
