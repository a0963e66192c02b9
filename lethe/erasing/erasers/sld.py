"""SLD: Safe Latent Diffusion (Schramowski et al. 2022, arXiv 2211.05105): guidance away from a text, while sampling.

Weights stay as they are; `erase` only says what sampling is to do. With predictions of the noise under the empty text
(u), the prompt (p) and the concepts' texts (S), eqs. 3 to 8 of the paper in the form of the released code:

    eps = eps_u + s_g (eps_p - eps_u - gamma)
    gamma = mu (eps_S - eps_u) + s_m nu
    mu = min(1, s_S |eps_p - eps_S|) where eps_p - eps_S < lambda, else 0
    nu <- beta nu + (1 - beta) gamma

elementwise, nu from zero; gamma counts only from step delta on, nu gathers from the start. (The paper prints a maximum
in mu; with it the scale is never below 1, and the published presets were made with the minimum.) s_g is
`sample.guidance`. delta is a number of 50 steps and scales with the number that is drawn.

The presets hold for noise. A network that predicts v or x_0 differs between two texts by a factor less: eps_p - eps_u
is k (f_p - f_u) with k = 1 for noise, sqrt(abar_t) for v, -sqrt(abar_t / (1 - abar_t)) for x_0. So gamma is computed on
these differences times k, and taken from the network's own prediction divided by k.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lethe.drawing.sampling import Predict, Settings, ask
from lethe.erasing.erased import Erased
from lethe.files.errors import UserError
from lethe.models.pipelines import encode_prompts
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

GUIDES = True
PASSES = 1  # the concepts' texts
OPTIONS = {
    "preset": {
        "description": "the paper's configuration, of rising strength",
        "enum": ["weak", "medium", "strong", "max"],
        "default": "medium",
    },
}
PRESETS = {
    "weak": {"warmup": 15, "scale": 200.0, "threshold": 0.0, "momentum": 0.0, "beta": 0.0},
    "medium": {"warmup": 10, "scale": 1000.0, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
    "strong": {"warmup": 7, "scale": 2000.0, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
    "max": {"warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum": 0.5, "beta": 0.7},
}
PRESET_STEPS = 50  # the presets' warm-up counts these


def erase(
    unet: nn.Module,
    base: SimpleNamespace,
    concepts: Mapping[str, Mapping],
    options: Mapping,
    seed: int,
    keeping: Keeping,
    budget: Budget,
) -> Erased:
    """The record for sampling: the concepts' prompts as one text, and the preset.

    Raises UserError if the text encoder would cut that text, since the last concepts would then stay.
    """
    text = ", ".join(concept["prompt"] for concept in concepts.values())
    length = min(base.tokenizer.model_max_length, base.text_encoder.config.max_position_embeddings)
    words = len(base.tokenizer(text).input_ids)
    if words > length:
        raise UserError(
            f"sld: {text!r} is {words} tokens, more than the text encoder's {length}; erase fewer concepts at once"
        )
    return Erased(guidance={"eraser": "sld", "text": text, "preset": options["preset"]})


def guide(
    base: SimpleNamespace, unet: nn.Module, record: Mapping, settings: Settings, embeddings: Mapping[str, Tensor]
) -> Callable[[Sequence[str]], Predict]:
    """See `lethe.erasing.guidance`. Raises UserError without classifier-free guidance, which SLD is a part of."""
    if settings.guidance <= 1:
        raise UserError(
            f"sample.guidance: {settings.guidance:g} is no classifier-free guidance, which eraser sld steers; "
            "give a scale above 1"
        )
    device = next(unet.parameters()).device
    unsafe = encode_prompts(base.tokenizer, base.text_encoder, [record["text"]])[0].to(device)
    empty = embeddings[""].to(device)
    preset = PRESETS[record["preset"]]
    warmup = round(preset["warmup"] * settings.steps / PRESET_STEPS)
    kind, alphas = base.scheduler.config.prediction_type, base.scheduler.alphas_cumprod

    def begin(prompts: Sequence[str]) -> Predict:
        text = torch.stack([embeddings[prompt] for prompt in prompts]).to(device)
        nu: Tensor | float = 0.0

        def predict(latents: Tensor, t: Tensor, index: int) -> Tensor:
            nonlocal nu
            null, prompt, concept = ask(unet, latents, t, [empty, text, unsafe])
            k = factor(kind, float(alphas[int(t)]))
            gamma, nu = away(k * (prompt - null), k * (concept - null), nu, preset)
            if index < warmup or k == 0:  # at k = 0, pure noise, no text changes the prediction of it
                gamma, k = torch.zeros_like(gamma), 1.0
            return null + settings.guidance * (prompt - null - gamma / k)

        return predict

    return begin


def factor(prediction_type: str, alpha: float) -> float:
    """k in eps_a - eps_b = k (f_a - f_b), for predictions f_a and f_b at one noisy latent; `alpha` is abar_t."""
    kinds = {"epsilon": 1.0, "v_prediction": alpha**0.5, "sample": -((alpha / (1 - alpha)) ** 0.5)}
    return kinds[prediction_type]


def away(prompt: Tensor, concept: Tensor, nu: Tensor | float, preset: Mapping) -> tuple[Tensor, Tensor]:
    """(gamma, next nu) from the noise predictions under prompt and concepts, less that under the empty text."""
    difference = prompt - concept
    mu = (preset["scale"] * difference).abs().clamp(max=1)
    mu = torch.where(difference < preset["threshold"], mu, 0.0)
    gamma = mu * concept + preset["momentum"] * nu
    return gamma, preset["beta"] * nu + (1 - preset["beta"]) * gamma
