"""Drawing that begins at pictures, and texts whose embeddings are given."""

import numpy as np
import pytest
import torch

from lethe.drawing import sampling
from lethe.drawing.sampling import Start
from lethe.models.pipelines import latent_shape, load_base
from lethe.models.schedulers import build_scheduler
from lethe.texts.rows import Prompt

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
ROWS = [Prompt(i, ("a boat", "a house by monet", "sun")[i % 3], 11 * i) for i in range(5)]
STEPS = 6


@pytest.fixture(scope="module", params=["tiny_base", "other_base"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def base(folder):
    found = load_base(str(folder), None, PARTS)
    found.latent_shape = latent_shape(found.unet)
    return found


@pytest.fixture(scope="module")
def clean(base):
    return [torch.randn(base.latent_shape, generator=torch.Generator().manual_seed(i)) for i in range(len(ROWS))]


def drawn(base, rows=ROWS, states=None, starts=None, **changes) -> np.ndarray:
    settings = sampling.Settings(**({"sampler": "ddim", "steps": STEPS, "guidance": 4.0, "tile": 3} | changes))
    cut = sampling.tiles(len(rows), settings.tile)
    begun = [[starts[i] for i in tile] for tile in cut] if starts else None
    pictures = sampling.draw(
        base, base.unet, [[rows[i] for i in tile] for tile in cut], settings, states=states, starts=begun
    )
    return np.concatenate(list(pictures))


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("taken", [1, 4, STEPS])
def test_a_start_is_finished_as_the_image_to_image_pipeline_does(folder, base, clean, sampler, taken):
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    kind, more = {
        "ddim": (DDIMScheduler, {"clip_sample": False}),
        "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    }[sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **more)
    wanted = pipeline(
        [row.prompt for row in ROWS[:3]],
        image=torch.stack(clean[:3]),  # four channels: taken for latents
        strength=taken / STEPS,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(row.seed) for row in ROWS[:3]],
        output_type="np",
    ).images
    starts = [Start(latent, STEPS - taken) for latent in clean]
    found = drawn(base, ROWS[:3], starts=starts, sampler=sampler)
    assert np.abs(found / 255 - wanted).max() <= 1.5 / 255


def test_a_hole_is_drawn_as_in_repaint_and_what_is_known_stays(base, clean):
    mask = torch.zeros(1, *base.latent_shape[1:])
    mask[:, :, : base.latent_shape[2] // 2] = 1
    row = ROWS[1]
    scheduler = build_scheduler("ddim", base.scheduler.config, STEPS)
    text = sampling.encode_unique(base, ["", row.prompt])
    noise = sampling.noise([row.seed], base.latent_shape)
    own = noise, text[row.prompt][None], text[""], STEPS, 4.0
    found = sampling.denoise(base.unet, scheduler, *own, starts=[Start(clean[1], 0, mask)])
    assert torch.equal(found[0] * (1 - mask), clean[1] * (1 - mask))

    scheduler.set_timesteps(STEPS)
    times, level = scheduler.timesteps.tolist(), scheduler.alphas_cumprod
    state = level[times[0]].sqrt() * clean[1] + (1 - level[times[0]]).sqrt() * noise[0]
    for t, after in zip(times, [*times[1:], None], strict=True):
        answer = sampling.guided(base.unet, state[None], torch.tensor(t), *own[1:3], 4.0)[0]
        drawn_anew = scheduler.step(answer, t, state).prev_sample
        known = clean[1] if after is None else level[after].sqrt() * clean[1] + (1 - level[after]).sqrt() * noise[0]
        state = mask * drawn_anew + (1 - mask) * known
    assert torch.allclose(found[0], state, atol=1e-5)


def test_a_hole_as_large_as_the_picture_leaves_only_the_start(base, clean):
    everything = torch.ones(1, *base.latent_shape[1:])
    masked = drawn(base, starts=[Start(latent, 2, everything) for latent in clean])
    assert np.array_equal(masked, drawn(base, starts=[Start(latent, 2) for latent in clean]))
    assert not np.array_equal(masked, drawn(base))


def test_a_picture_does_not_depend_on_its_neighbours(base, clean):
    starts = [Start(latent, 1) for latent in clean]
    together = drawn(base, starts=starts)
    alone = drawn(base, ROWS[3:4], starts=starts[3:4])
    assert np.array_equal(together[3:4], alone)


def test_a_given_embedding_takes_the_place_of_the_texts_own(base):
    words = sampling.encode_unique(base, ["a boat"])["a boat"]
    asked = [Prompt(row.case_number, "<learnt>", row.seed) for row in ROWS]
    plain = [Prompt(row.case_number, "a boat", row.seed) for row in ROWS]
    assert np.array_equal(drawn(base, asked, states={"<learnt>": words}), drawn(base, plain))
    assert not np.array_equal(drawn(base, asked), drawn(base, plain))
    assert np.array_equal(drawn(base, plain, states={"another": words}), drawn(base, plain))


def test_states_that_carry_a_gradient_can_be_drawn(base):
    words = sampling.encode_unique(base, ["a boat"])["a boat"].clone().requires_grad_(True)
    found = drawn(base, [Prompt(0, "<learnt>", 0)], states={"<learnt>": words})
    assert np.array_equal(found, drawn(base, [Prompt(0, "a boat", 0)]))
