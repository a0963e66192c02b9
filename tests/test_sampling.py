import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lethe import sampling
from lethe.errors import UserError
from lethe.models import latent_shape, load_base
from lethe.prompts import Prompt

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
ROWS = [Prompt(i, ("a boat", "a house by monet", "sun")[i % 3], 11 * i) for i in range(7)]


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def base(folder):
    found = load_base(str(folder), None, PARTS)
    found.latent_shape = latent_shape(found.unet)
    return found


def drawn(base, rows, workers=1, **changes) -> np.ndarray:
    settings = sampling.Settings(**({"sampler": "ddim", "steps": 3, "guidance": 4.0, "tile": 3} | changes))
    cut = [[rows[i] for i in tile] for tile in sampling.tiles(len(rows), settings.tile)]
    return np.concatenate(list(sampling.draw(base, base.unet, cut, settings, workers)))


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_equals_the_diffusers_pipeline(folder, base, sampler, guidance):
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
        num_inference_steps=5,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(row.seed) for row in rows],
        output_type="np",
    ).images
    found = drawn(base, rows, sampler=sampler, steps=5, guidance=guidance)
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


def test_too_many_steps_are_refused(base):
    with pytest.raises(UserError, match=r"sample\.steps: 1001 is more than the model's 1000"):
        drawn(base, ROWS[:1], steps=1001)
