"""Noising, targets and the losses of the lower level.

Notation: z latent, e noise, z_t = a_t z + s_t e, a_t = sqrt(alphabar_t), s_t = sqrt(1 - alphabar_t),
SNR = a_t^2 / s_t^2, v = a_t e - s_t z. All losses are float32 scalars; batches are [B, C, h, w].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lethe.files.errors import UserError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class Schedule:
    """A base model's noise schedule as tables over its T training timesteps, on the device, computed once."""

    a: torch.Tensor  # [T] float32
    s: torch.Tensor  # [T]
    weight: torch.Tensor  # [T], of the diffusion loss
    prediction: str  # epsilon, v_prediction or sample

    def __len__(self) -> int:
        return len(self.a)

    def noised(self, z: torch.Tensor, e: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t = a_t z + s_t e (Ho et al. 2020, eq. 4). `t` is [B] long."""
        return _at(self.a, t) * z + _at(self.s, t) * e

    def target(self, z: torch.Tensor, e: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network should answer: e, v (Salimans & Ho 2022, appendix D) or z."""
        match self.prediction:
            case "epsilon":
                return e
            case "v_prediction":
                return _at(self.a, t) * e - _at(self.s, t) * z
            case _:
                return z


def schedule(scheduler: "SchedulerMixin", gamma: float | None, min_snr_v: str, device: torch.device) -> Schedule:
    """From the base model's scheduler. Raises UserError if it is not one of epsilon-, v- or sample-prediction."""
    alphabar = getattr(scheduler, "alphas_cumprod", None)
    prediction = scheduler.config.get("prediction_type")
    if alphabar is None or prediction not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"the base model's scheduler ({type(scheduler).__name__}) has prediction_type {prediction!r}; training "
            "needs a noise schedule (alphas_cumprod) and epsilon, v_prediction or sample"
        )
    alphabar = alphabar.double()
    weight = snr_weight(alphabar / (1 - alphabar), gamma, prediction, min_snr_v)
    a, s, weight = (table.float().to(device) for table in (alphabar.sqrt(), (1 - alphabar).sqrt(), weight))
    return Schedule(a, s, weight, prediction)


def snr_weight(snr: torch.Tensor, gamma: float | None, prediction: str, min_snr_v: str = "legacy") -> torch.Tensor:
    """min-SNR-gamma weights (Hang et al. 2023, section 3.4); all one if gamma is None.

    epsilon: min(SNR, g) / SNR. sample: min(SNR, g). v_prediction: "standard" is min(SNR, g) / (SNR + 1), "legacy"
    min(SNR + 1, g) / (SNR + 1), which the paper's released code has: it keeps weight 1 at high noise.
    """
    if gamma is None:
        return torch.ones_like(snr)
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1)  # this form stays finite at SNR = 0
    if prediction == "sample":
        return snr.clamp(max=gamma)
    return (snr + 1).clamp(max=gamma) / (snr + 1) if min_snr_v == "legacy" else snr.clamp(max=gamma) / (snr + 1)


def diffusion(answer: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L_diff = mean_i w(t_i) * mean (f(z_t, t, c) - target)^2, `weight` [B] (Hang et al. 2023, section 3)."""
    return (weight * (answer.float() - target.float()).square().flatten(1).mean(1)).mean()


def mean_square(answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over all elements of the squared difference, in float32.

    As L_outKD: answer of the student, target of the teacher, no weight over t (BK-SDM, Kim et al. 2023, eq. 2). Not
    mse_loss, which would save the target for backward; a target from inference mode cannot be saved.
    """
    return (answer.float() - target.float()).square().mean()


def features(
    answers: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], pairs: Iterable[tuple[str, str]]
) -> torch.Tensor:
    """L_featKD: mean over pairs of blocks (student's, teacher's) of each pair's mean squared difference.

    BK-SDM, Kim et al. 2023, eq. 3, with the mean for the sum.
    """
    return torch.stack([mean_square(answers[mine], targets[theirs]) for mine, theirs in pairs]).mean()


def _at(table: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return table[t][:, None, None, None]
