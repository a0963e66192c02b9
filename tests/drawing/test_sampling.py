import copy
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lethe.drawing import sampling
from lethe.erasing.guidance import passes
from lethe.files.errors import UserError
from lethe.models.pipelines import latent_shape, load_base
from lethe.texts.rows import Prompt

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
GUIDANCE = {
    "sld": {"eraser": "sld", "text": "monet", "preset": "max"},
    "safree": {
        "eraser": "safree",
        "texts": ["monet"],
        "alpha": 0.0,
        "gamma": 40.0,
        "padding": True,
        "hide": "zero",
        "filter": "paper",
        "negative": True,
        "reattention": True,
    },
}
ROWS = [Prompt(i, ("a boat", "a house by monet", "sun")[i % 3], 11 * i) for i in range(7)]


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def base(folder):
    found = load_base(str(folder), None, PARTS)
    found.latent_shape = latent_shape(found.unet)
    return found


def drawn(base, rows, workers=1, guidance_record=None, **changes) -> np.ndarray:
    settings = sampling.Settings(**({"sampler": "ddim", "steps": 3, "guidance": 4.0, "tile": 3} | changes))
    cut = [[rows[i] for i in tile] for tile in sampling.tiles(len(rows), settings.tile)]
    return np.concatenate(list(sampling.draw(base, base.unet, cut, settings, workers, guidance_record)))


@pytest.mark.parametrize(("guidance", "steps"), [(1.0, 5), (4.0, 5), (4.0, 2), (4.0, 1)])
@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_equals_the_diffusers_pipeline(folder, base, sampler, guidance, steps):
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    kind, more = {
        "ddim": (DDIMScheduler, {"clip_sample": False}),
        "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    }[sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **more)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert pipeline.scheduler.config.prediction_type == config["prediction_type"]
    rows = ROWS[:3]
    wanted = pipeline(
        [row.prompt for row in rows],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(row.seed) for row in rows],
        output_type="np",
    ).images
    found = drawn(base, rows, sampler=sampler, steps=steps, guidance=guidance)
    assert found.dtype == np.uint8
    assert np.abs(found - 255 * wanted).max() < 0.51  # the pipeline encodes prompts together: last bits differ


def test_one_ddim_step_of_a_known_model_is_the_closed_form():
    from diffusers import DDIMScheduler

    class Linear(torch.nn.Module):
        def forward(self, x, t, encoder_hidden_states, return_dict):
            return (0.5 * x + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1),)

    x, conditional, empty = torch.randn(2, 4, 3, 3), torch.full((2, 5, 6), 0.3), torch.full((5, 6), 0.1)
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    found = sampling.denoise(Linear(), scheduler, x, conditional, empty, 1, 4.0)
    noise = 0.5 * x + 0.1 + 4 * (0.3 - 0.1)
    alpha = scheduler.alphas_cumprod[0]  # leading spacing: one step starts at t = 0
    torch.testing.assert_close(found, (x - (1 - alpha).sqrt() * noise) / alpha.sqrt())


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_a_picture_depends_on_its_row_alone(base, sampler):
    every = drawn(base, ROWS, sampler=sampler)
    assert len({picture.tobytes() for picture in every}) == len(ROWS)
    assert np.array_equal(drawn(base, ROWS[::-1], sampler=sampler)[::-1], every)
    assert np.array_equal(drawn(base, ROWS, workers=3, sampler=sampler), every)
    for i in (0, 4, 6):
        assert np.array_equal(drawn(base, [ROWS[i]], sampler=sampler)[0], every[i])
        assert np.array_equal(drawn(base, [ROWS[3], ROWS[1], ROWS[i]], sampler=sampler)[2], every[i])


@pytest.mark.parametrize("eraser", GUIDANCE)
def test_an_eraser_that_guides_keeps_pictures_apart(base, eraser):
    record = GUIDANCE[eraser]
    every = drawn(base, ROWS, guidance_record=record)
    assert not np.array_equal(every, drawn(base, ROWS))
    assert np.array_equal(drawn(base, ROWS[::-1], guidance_record=record)[::-1], every)
    assert np.array_equal(drawn(base, ROWS, workers=3, guidance_record=record), every)
    for i in (0, 4, 6):
        assert np.array_equal(drawn(base, [ROWS[i]], guidance_record=record)[0], every[i])
        assert np.array_equal(drawn(base, [ROWS[3], ROWS[1], ROWS[i]], guidance_record=record)[2], every[i])


@pytest.mark.parametrize(("name", "most"), [("bfloat16", 3), ("float16", 1), ("int8", 3), ("int4", 25)])
def test_another_precision_keeps_pictures_apart_and_near_those_in_float32(base, name, most):
    before = {key: value.clone() for key, value in base.unet.state_dict().items()}
    every, exact = drawn(base, ROWS, precision=name), drawn(base, ROWS)
    assert 0 < np.abs(every.astype(float) - exact).mean() < most
    assert np.array_equal(drawn(base, ROWS[::-1], precision=name)[::-1], every)
    for i in (0, 4, 6):
        assert np.array_equal(drawn(base, [ROWS[i]], precision=name)[0], every[i])
    assert {parameter.dtype for parameter in base.unet.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[key]) for key, value in base.unet.state_dict().items())


@pytest.mark.parametrize(("name", "words"), [("float16", "float16 ends at 65504"), ("float32", "weights are broken")])
def test_latents_that_are_not_finite_are_refused(base, name, words):
    broken = copy.copy(base)
    broken.unet = copy.deepcopy(base.unet)
    with torch.no_grad():  # 1e5 is infinite in float16 alone
        broken.unet.conv_out.bias.fill_(1e5 if name == "float16" else float("nan"))
    with pytest.raises(UserError, match=f"'a boat', or one in its tile: latents not finite; .*{words}"):
        drawn(broken, ROWS[:1], precision=name)


def test_bfloat16_is_the_unets_alone(base, monkeypatch):
    seen, step, forward = [], sampling.DDIMScheduler.step, type(base.unet).forward

    def stepping(self, output, t, latents, **named):
        seen.extend([output.dtype, latents.dtype])
        return step(self, output, t, latents, **named)

    def answering(self, latents, t, encoder_hidden_states, **named):
        assert {latents.dtype, encoder_hidden_states.dtype, self.dtype} == {torch.bfloat16}
        return forward(self, latents, t, encoder_hidden_states, **named)

    monkeypatch.setattr(sampling.DDIMScheduler, "step", stepping)
    monkeypatch.setattr(type(base.unet), "forward", answering)
    hook = base.vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    try:
        drawn(base, ROWS[:1], precision="bfloat16")
    finally:
        hook.remove()
    assert seen == [torch.float32] * 7


def test_threads_asked_for_before_change_no_picture_and_are_given_back(base):
    before = torch.get_num_threads()
    one = drawn(base, ROWS[:3])
    try:
        torch.set_num_threads(2)
        assert np.array_equal(drawn(base, ROWS[:3]), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_prompt_and_guidance_and_seed_count(base):
    one = drawn(base, [Prompt(0, "a boat", 5)])
    for row, changes in [
        (Prompt(0, "a tree", 5), {}),
        (Prompt(0, "a boat", 6), {}),
        (Prompt(0, "a boat", 5), {"guidance": 1.0}),
    ]:
        assert not np.array_equal(drawn(base, [row], **changes), one)


def test_guidance_one_runs_no_unconditional_pass(base):
    batches = []
    hook = base.unet.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    try:
        drawn(base, ROWS[:1], guidance=1.0)
        drawn(base, ROWS[:1])
    finally:
        hook.remove()
    assert batches == [3] * 3 + [6] * 3


@pytest.mark.parametrize(
    ("eraser", "guidance", "count"), [("sld", 4.0, 3), ("safree", 4.0, 3), ("safree", 1.0, 2), (None, 4.0, 2)]
)
def test_an_eraser_that_guides_runs_the_passes_it_declares(base, eraser, guidance, count):
    batches = []
    hook = base.unet.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    try:
        drawn(base, ROWS[:1], guidance_record=GUIDANCE.get(eraser), guidance=guidance, tile=8)
    finally:
        hook.remove()
    assert batches == [8 * count] * 3
    assert passes(GUIDANCE.get(eraser), guidance) == count


def test_too_many_steps_are_refused(base):
    with pytest.raises(UserError, match=r"sample\.steps: 1001 is more than the model's 1000"):
        drawn(base, ROWS[:1], steps=1001)


def test_told_to_stop_it_ends_within_a_step(base):
    """Whoever waits for a tile is told, and goes away: the threads end at their next step, not with their tiles."""
    asked = []

    def count(*_):
        asked.append(len(asked))
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hook = base.unet.register_forward_pre_hook(count)
    try:
        with pytest.raises(SystemExit):
            drawn(base, ROWS, 2, steps=200)
    finally:
        signal.signal(signal.SIGTERM, before)
        hook.remove()
    assert len(asked) < 200
