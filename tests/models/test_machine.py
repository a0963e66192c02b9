"""What a machine may choose changes speed and last bits alone.

Two backends stand for a GPU's compiler: `eager` traces a network and runs the trace, `aot_eager` traces its backward,
too, which takes half a minute for a teacher and a student. So one run of that serves all who ask of it.
"""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from lethe.drawing import sampling
from lethe.models import precision
from lethe.models.machine import Fitted, Machine, widen
from lethe.stage.record import Budget
from lethe.texts.rows import Prompt
from lethe.training import finetune
from tests.tiny_training import OPTIONS, encoded, pair

BF16 = OPTIONS | {"precision": "bfloat16"}


def gradients(base, options, machine: Machine | None, steps: int = 1):
    """Loss and gradients of the lower level at the first of some steps, with networks fitted to a machine or not."""
    teacher, student, schedule = pair(base)
    narrowed(student)
    if options["precision"] == "bfloat16":
        teacher = torch.nn.Module.to(teacher, torch.bfloat16)
    fitted = student if machine is None else Fitted(student, machine, tapped=True)
    if machine is not None:
        teacher = Fitted(teacher, Machine(backend=machine.backend), tapped=True)
    lower = finetune.lower(teacher, encoded(student), schedule, options, 0, Budget())
    found = []
    for k in range(steps):
        student.zero_grad()
        loss, terms = lower(fitted, k)
        loss.backward()
        losses = {key: float(value.detach()) for key, value in terms.items()}
        found.append((losses, [p.grad.flatten() for p in student.parameters()]))
    return found[0]


def narrowed(unet: UNet2DConditionModel) -> None:
    """Feed-forwards of an odd width, as pruning leaves them."""
    from lethe.models.cutting import channels, cut, members
    from lethe.pruning.narrowing import KINDS

    for path, module in list(unet.named_modules()):
        if KINDS.get(type(module)) == "ffn":
            width = channels(module, "ffn")
            cut(unet, {path: {"kind": "ffn", "total": width, "kept": list(range(width - 5))}})
            assert members(module, "ffn")[0][0].weight.requires_grad


def test_a_fitted_network_is_the_network(tiny_base):
    own, mine = gradients(tiny_base, OPTIONS, None)
    found, theirs = gradients(tiny_base, OPTIONS, Machine())
    assert found == own
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("machine", [Machine(channels_last=True), Machine(backend="eager")])
def test_layout_and_tracing_change_no_more_than_rounding(tiny_base, machine):
    own, mine = gradients(tiny_base, OPTIONS, None)
    found, theirs = gradients(tiny_base, OPTIONS, machine)
    assert found == pytest.approx(own, rel=1e-4)
    assert torch.nn.functional.cosine_similarity(torch.cat(mine), torch.cat(theirs), dim=0) > 0.99999


@pytest.fixture(scope="module")
def half(tiny_base):
    """Gradients in float32, and in bfloat16 by autocast."""
    return gradients(tiny_base, OPTIONS, None), gradients(tiny_base, BF16, None)


def check_half(half, found) -> None:
    (exact, true), (_, mine) = half
    losses, theirs = found
    assert all(value.dtype == torch.float32 for value in theirs)
    assert losses == pytest.approx(exact, rel=0.05)
    true, mine, theirs = (torch.cat(part) for part in (true, mine, theirs))
    similar = torch.nn.functional.cosine_similarity
    assert similar(theirs, true, dim=0) > 0.99
    assert similar(theirs, true, dim=0) > similar(mine, true, dim=0) - 0.005


@pytest.mark.parametrize("machine", [Machine(cast="step"), Machine(cast="step", multiple=8)])
def test_weights_cast_once_a_step_give_the_gradients_of_autocast(tiny_base, half, machine):
    check_half(half, gradients(tiny_base, BF16, machine))


def test_a_compiled_step_is_compiled_once_and_gives_them_too(tiny_base, half):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    machine = Machine(cast="step", multiple=8, channels_last=True, backend="aot_eager")
    check_half(half, gradients(tiny_base, BF16, machine, steps=4))
    stats = torch._dynamo.utils.counters
    assert stats["stats"]["unique_graphs"] == 2  # teacher and student
    assert not stats["graph_break"]


def test_copies_follow_the_weights(tiny_base):
    _, student, _ = pair(tiny_base)
    fitted = Fitted(student, Machine(cast="step"))
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 8, 16)
    with torch.no_grad():
        before = fitted(*inputs)[0]
        assert torch.equal(fitted(*inputs)[0], before)
        for parameter in student.parameters():
            parameter.mul_(1.1)
        after = fitted(*inputs)[0]
    half = torch.nn.Module.to(copy.deepcopy(student), torch.bfloat16)
    with torch.no_grad():
        expected = half(inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16()).sample
    assert not torch.equal(before, after)
    assert torch.equal(after, expected)


def test_one_graph_may_hold_two_forwards(tiny_base):
    _, student, _ = pair(tiny_base)
    fitted = Fitted(student, Machine(cast="step", multiple=8))
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 8, 16)
    sum(fitted(*inputs)[0].float().square().mean() for _ in range(2)).backward()
    twice = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    fitted(*inputs)[0].float().square().mean().backward()
    assert all(torch.equal(two, 2 * p.grad) for two, p in zip(twice, student.parameters(), strict=True))


def test_zeros_beside_a_feed_forward_change_no_answer(tiny_base):
    teacher, _, _ = pair(tiny_base)
    narrowed(teacher.requires_grad_(True))
    wide = copy.deepcopy(teacher)
    parts = widen(wide, 8)
    assert len(parts) == 3 * sum(name.endswith("net.2.weight") for name, _ in teacher.named_parameters())
    assert all(p.shape[0] % 8 == 0 for name, p in wide.named_parameters() if name.endswith("net.0.proj.weight"))
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(wide(*inputs).sample, teacher(*inputs).sample, rtol=1e-5, atol=1e-5)


def test_switches_are_put_back():
    before = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    with Machine(deterministic=False, tf32="all", attention="cudnn").computing():
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cuda.matmul.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32) == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_pictures_of_a_fitted_network_are_near(tiny_base):
    from types import SimpleNamespace

    from lethe.models import pipelines

    loaded = pipelines.load_base(str(tiny_base), None, ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
    base = SimpleNamespace(**vars(loaded), latent_shape=(4, 8, 8))
    rows = [[Prompt(1, "a boat", 3), Prompt(2, "a tree", 4)]]
    how = {"sampler": "ddim", "steps": 3, "guidance": 4.0, "tile": 2}
    (own,) = sampling.draw(base, base.unet, rows, sampling.Settings(**how, precision="bfloat16"))
    half = precision.Half(base.unet, torch.bfloat16)
    machine = Machine(deterministic=False, channels_last=True, backend="eager")
    half.unet = Fitted(half.unet, machine)
    base.vae = torch.nn.Module.to(base.vae, torch.bfloat16)
    (found,) = sampling.draw(base, half, rows, sampling.Settings(**how), machine=machine)
    assert abs(found.astype(int) - own).mean() < 3
