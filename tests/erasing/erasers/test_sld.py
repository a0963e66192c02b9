import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from lethe.drawing.sampling import Settings
from lethe.erasing.erasers import sld
from lethe.files.errors import UserError
from lethe.models import pipelines
from lethe.stage.record import Budget

CONCEPTS = {"monet": {"prompt": "by monet"}, "picasso": {"prompt": "by picasso"}}
TEXTS = {"": 0.0, "a boat": 0.3, "a house by monet": -0.2, "unsafe": 0.7}  # what stands in the embeddings


class Net(nn.Module):
    """Known noise predictions, told in any of the three ways: depends on latents, text, row and time."""

    def __init__(self, kind: str, alphas: torch.Tensor):
        super().__init__()
        self.kind, self.alphas, self.unused = kind, alphas, nn.Parameter(torch.zeros(()))

    def noise(self, x, t, text):
        return 0.1 * x + 0.02 * torch.sin(5 * x + 40 * text + int(t))

    def forward(self, x, t, encoder_hidden_states, return_dict):
        eps, alpha = self.noise(x, t, encoder_hidden_states[:, :1, :1, None]), self.alphas[int(t)]
        clean = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        v = alpha.sqrt() * eps - (1 - alpha).sqrt() * clean
        return ({"epsilon": eps, "v_prediction": v, "sample": clean}[self.kind],)

    def to_noise(self, output, x, t):
        alpha = self.alphas[int(t)]
        return {
            "epsilon": output,
            "v_prediction": alpha.sqrt() * output + (1 - alpha).sqrt() * x,
            "sample": (x - alpha.sqrt() * output) / (1 - alpha).sqrt(),
        }[self.kind]


def setting(monkeypatch, kind, **changes):
    """(net, what `guide` is given) with embeddings that hold one number."""
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    net = Net(kind, scheduler.alphas_cumprod)
    embeddings = {text: torch.full((3, 2), value) for text, value in TEXTS.items()}
    monkeypatch.setattr(sld, "encode_prompts", lambda tokenizer, encoder, texts: torch.stack([embeddings[texts[0]]]))
    base = SimpleNamespace(tokenizer=None, text_encoder=None, scheduler=scheduler)
    settings = Settings(**({"sampler": "ddim", "steps": 10, "guidance": 4.0, "tile": 2} | changes))
    return net, (base, net), (settings, embeddings)


def record(preset):
    return {"eraser": "sld", "text": "unsafe", "preset": preset}


def reference(u, p, s, nu, preset):
    """One element of the paper's formulas, without tensors: (gamma, next nu)."""
    mu = min(1.0, abs(preset["scale"] * (p - s))) if p - s < preset["threshold"] else 0.0
    gamma = mu * (s - u) + preset["momentum"] * nu
    return gamma, preset["beta"] * nu + (1 - preset["beta"]) * gamma


@pytest.mark.parametrize("name", sld.PRESETS)
def test_gamma_is_the_papers_elementwise_with_its_momentum(name):
    preset, draws = sld.PRESETS[name], torch.Generator().manual_seed(1)
    nu, expected = 0.0, [0.0] * 60
    for _ in range(4):
        u, p, s = (0.01 * torch.randn(60, generator=draws, dtype=torch.float64) for _ in range(3))
        gamma, nu = sld.away(p - u, s - u, nu, preset)
        wanted = [reference(*row, preset) for row in zip(u.tolist(), p.tolist(), s.tolist(), expected, strict=True)]
        expected = [after for _, after in wanted]
        torch.testing.assert_close(gamma, torch.tensor([g for g, _ in wanted], dtype=torch.float64))
        torch.testing.assert_close(nu, torch.tensor(expected, dtype=torch.float64))
    assert bool(gamma.any())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_formula_holds_for_noise_whatever_the_network_predicts(monkeypatch, kind):
    net, given, rest = setting(monkeypatch, kind)
    prompts = ["a boat", "a house by monet"]
    predict = sld.guide(*given, record("strong"), *rest)(prompts)
    preset, warmup = sld.PRESETS["strong"], round(7 * 10 / 50)
    nu = torch.zeros(2, 4, 3, 3)
    draws = torch.Generator().manual_seed(3)
    steered = []
    for index, t in enumerate([900, 700, 500, 300]):
        x = torch.randn((2, 4, 3, 3), generator=draws)
        found = net.to_noise(predict(x, torch.tensor(t), index), x, t)
        u, s = (net.noise(x, t, torch.tensor(TEXTS[text])) for text in ("", "unsafe"))
        p = net.noise(x, t, torch.tensor([TEXTS[text] for text in prompts]).view(2, 1, 1, 1))
        gamma = torch.zeros_like(x)
        for place in range(x.numel()):
            values = [float(one.flatten()[place]) for one in (u, p, s, nu)]
            gamma.view(-1)[place], nu.view(-1)[place] = reference(*values, preset)
        applied = gamma if index >= warmup else torch.zeros_like(gamma)
        torch.testing.assert_close(found, u + 4 * (p - u - applied), atol=2e-4, rtol=1e-3)
        steered.append(float(applied.abs().max()))
    assert steered[0] == 0
    assert min(steered[1:]) > 0.01


@pytest.mark.parametrize(("preset", "steps", "warmup"), [("weak", 50, 15), ("weak", 10, 3), ("max", 10, 0)])
def test_warm_up_scales_with_the_steps_and_is_plain_guidance(monkeypatch, preset, steps, warmup):
    _, (base, net), rest = setting(monkeypatch, "epsilon", steps=steps)
    predict = sld.guide(base, net, record(preset), *rest)(["a boat"])
    x = torch.linspace(-2, 2, 36).view(1, 4, 3, 3)
    u, p = (net.noise(x, 500, torch.tensor(TEXTS[text])) for text in ("", "a boat"))
    plain = u + 4 * (p - u)
    same = [torch.allclose(predict(x, torch.tensor(500), index), plain, atol=1e-6) for index in range(warmup + 2)]
    assert same == [True] * warmup + [False, False]


def test_saturated_and_everywhere_it_is_guidance_from_the_text_alone():
    u, p, s = torch.tensor([0.1, -0.3]), torch.tensor([0.2, 0.1]), torch.tensor([0.7, 0.4])
    preset = {"scale": math.inf, "threshold": math.inf, "momentum": 0.0, "beta": 0.0}
    gamma, _ = sld.away(p - u, s - u, 0.0, preset)
    torch.testing.assert_close(u + 4 * (p - u - gamma), u + 4 * (p - s))


def test_pure_noise_of_a_schedule_that_ends_at_zero_signal(monkeypatch):
    _, (base, net), rest = setting(monkeypatch, "v_prediction")
    base.scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
    assert sld.factor("v_prediction", float(base.scheduler.alphas_cumprod[-1])) < 1e-3
    base.scheduler.alphas_cumprod[-1] = 0.0
    found = sld.guide(base, net, record("max"), *rest)(["a boat"])(torch.ones(1, 4, 3, 3), torch.tensor(999), 0)
    assert bool(found.isfinite().all())


def test_each_tile_starts_without_momentum(monkeypatch):
    _, given, rest = setting(monkeypatch, "epsilon")
    begin, x = sld.guide(*given, record("max"), *rest), torch.linspace(-2, 2, 36).view(1, 4, 3, 3)
    first = begin(["a boat"])
    found = [first(x, torch.tensor(500), index) for index in range(3)]
    assert not torch.equal(found[0], found[1])
    assert torch.equal(begin(["a boat"])(x, torch.tensor(500), 0), found[0])


def test_the_record_holds_the_prompts_as_one_text_and_weights_stay(tiny_base):
    base = pipelines.load_base(str(tiny_base), None, ["tokenizer", "text_encoder"])
    concepts = {"monet": {"prompt": "monet"}, "sun": {"prompt": "a sun"}}
    found = sld.erase(None, base, concepts, {"preset": "weak"}, 0, None, Budget())
    assert found.guidance == {"eraser": "sld", "text": "monet, a sun", "preset": "weak"}
    assert found.progress is None
    concepts["long"] = {"prompt": "a painting"}
    with pytest.raises(UserError, match=r"sld: 'monet, a sun, a painting' is 22 tokens, more .* 16; erase fewer"):
        sld.erase(None, base, concepts, {"preset": "weak"}, 0, None, Budget())


def test_without_classifier_free_guidance_it_is_refused(monkeypatch):
    _, given, rest = setting(monkeypatch, "epsilon", guidance=1.0)
    with pytest.raises(UserError, match=r"sample\.guidance: 1 is no classifier-free guidance.*sld.*above 1"):
        sld.guide(*given, record("weak"), *rest)
