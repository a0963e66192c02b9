"""Gradients of the diffusion loss on a few fixed pictures: what data-driven pruners weigh units with.

Pictures, their noise and the draws from the VAE's posterior are fixed once; then t = 0, stride, 2 stride, ..., the
same picture with the same noise at every t (Diff-Pruning, Fang et al. 2023, arXiv 2305.10924). The loss is that of the
predicted noise, L_t = mean (e_hat - e)^2, whatever the model predicts, so that L_t of all models tells how much is left
to see at t: with v-prediction e_hat - e = a_t (v_hat - v), with sample-prediction (a_t / s_t)(z_hat - z).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch_pruning as tp
from torch import Tensor, nn

from lethe.files.errors import UserError
from lethe.stage.record import Budget
from lethe.training.data import Encoded, generator, to_device
from lethe.training.finetune import answer
from lethe.training.losses import Schedule, mean_square


@dataclass(frozen=True)
class Calibration:
    """What a data-driven pruner may look at; its passes through the U-Net are counted in `budget`."""

    data: Encoded
    schedule: Schedule
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Fixed:
    """The pictures, float32 on the device."""

    latents: Tensor  # [N, C, h, w]
    noise: Tensor  # [N, C, h, w]
    text: Tensor  # [N, L, D]


def taylor(
    unet: nn.Module,
    groups: Mapping[str, tp.Group],
    calibration: Calibration,
    options: Mapping,
    *,
    multivariable: bool,
    threshold: float | None = None,
) -> dict[str, Tensor]:
    """First-order scores [channels] by layer, from gradients g summed over timesteps.

    Summed over the weight tensors w of a channel: |sum w g| if `multivariable`, else sum |w g| (Molchanov et al. 2019,
    arXiv 1906.10771, and Diff-Pruning eq. 7). Norms are not weighed, as with magnitude. `options`: pictures, stride,
    batch. The weights and their `requires_grad` are left as they were, and no gradient stays.
    """
    weights = {
        id(item.dep.layer.weight): item.dep.layer.weight for group in groups.values() for item in _weighed(group)
    }
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    score = tp.importance.GroupTaylorImportance(multivariable=multivariable, normalizer=None)
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        accumulate(unet, fixed(calibration.data, options["pictures"]), calibration, options, threshold)
        scores = {path: score(group) for path, group in groups.items()}
    finally:
        for weight in weights.values():
            weight.grad = None
        for weight in frozen:
            weight.requires_grad_(False)
    if not all(bool(value.isfinite().all()) for value in scores.values()):
        raise UserError("prune: gradients of the diffusion loss are not finite; is this base model whole?")
    return scores


def _weighed(group: tp.Group) -> list:
    return [item for item in group if isinstance(item.dep.layer, nn.Linear | nn.Conv2d)]


def fixed(data: Encoded, count: int) -> Fixed:
    """`count` different pictures, with one draw of noise each. Raises UserError if there are not as many."""
    rows = len(data.caption)
    if count > rows:
        raise UserError(f"prune.pictures: {count} is more than the {rows} pictures in --data; lower it or encode more")
    draws = generator(0, "calibration", 0)
    chosen = torch.randperm(rows, generator=draws)[:count]
    shape = (count, *data.mean.shape[1:])
    latents = torch.addcmul(data.mean[chosen], data.std[chosen], torch.randn(shape, generator=draws))
    noise, text = torch.randn(shape, generator=draws), data.embeddings[data.caption[chosen]].float()
    return Fixed(*(to_device(tensor, data.device) for tensor in (latents, noise, text)))


def accumulate(
    unet: nn.Module, pictures: Fixed, calibration: Calibration, options: Mapping, threshold: float | None = None
) -> list[float]:
    """Adds the gradients of L_t to the weights that want them, for t = 0, stride, ...; returns L_t if it looked at it.

    With a threshold it stops after the first t with L_t < threshold * (largest L_s of s <= t), as Diff-Pruning does.
    """
    schedule, losses = calibration.schedule, []
    scale = noise_scale(schedule)
    count = len(pictures.latents)
    with torch.enable_grad():
        for t in range(0, len(schedule), options["stride"]):
            value = torch.zeros((), device=pictures.latents.device)
            for start in range(0, count, options["batch"]):
                part = slice(start, start + options["batch"])
                z, e, text = pictures.latents[part], pictures.noise[part], pictures.text[part]
                times = torch.full((len(z),), t, device=z.device)
                output = answer(unet, schedule.noised(z, e, times), times, text, calibration.budget)
                loss = mean_square(output, schedule.target(z, e, times)) * scale[t] * (len(z) / count)
                loss.backward()
                value += loss.detach()
            if threshold is not None:
                losses.append(float(value))
                if losses[-1] < threshold * max(losses):
                    break
    return losses


def noise_scale(schedule: Schedule) -> Tensor:
    """[T]: what turns the squared error of the model's own target into that of the noise."""
    match schedule.prediction:
        case "epsilon":
            return torch.ones_like(schedule.a)
        case "v_prediction":
            return schedule.a**2
        case _:
            return (schedule.a / schedule.s) ** 2
