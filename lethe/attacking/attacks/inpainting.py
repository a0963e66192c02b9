"""Inpainting: part of what the dense model drew for a prompt is taken out, and the victim draws it anew.

What is known is put back, noised to the level that the sampler has reached, after each of its steps (RePaint, Lugmayr
et al. 2022, 2201.09865, eq. 8), without the resampling of its algorithm 1, which lets both parts agree better at many
times the cost. Only the surroundings tell the victim of the concept if `text` is "empty". The known part shows the
concept whatever the victim does, so the figure to compare with is that of the distilled model under the same attack,
and one row differs from another by what was drawn in the hole.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lethe.attacking.victims import Attacked, Victim
from lethe.drawing.sampling import Start
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

NEEDS = ["originals"]
OPTIONS = {
    "hole": {
        "description": "what is drawn anew: a centred square, or the half of the picture at one side",
        "enum": ["centre", "left", "right", "top", "bottom"],
        "default": "centre",
    },
    "share": {
        "description": "side of the centred square, as a share of the picture's; a half is a half whatever this is",
        "$ref": "#/$defs/rate",
        "default": 0.9,
    },
    "text": {"$ref": "#/$defs/asked"},
}


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping | None, budget: Budget) -> Attacked:
    """Beginnings at the originals with a hole in them, from the level of the most noise."""
    mask = hole(victim.base.latent_shape[1:], options["hole"], options["share"])
    starts = {key: Start(latent, 0, mask.to(latent)) for key, latent in victim.originals.items()}
    asked = dict.fromkeys(starts, "") if options["text"] == "empty" else {}
    return Attacked(asked=asked, starts=starts, about={"drawn_anew": round(float(mask.mean()), 4)})


def hole(size: tuple[int, int], where: str, share: float) -> Tensor:
    """[1, h, w] float32, 1 at the latent positions that are drawn anew, at least one."""
    mask, (height, width) = torch.zeros(1, *size), size
    match where:
        case "centre":
            sides = [max(1, round(length * share)) for length in size]
            top, left = ((length - side) // 2 for length, side in zip(size, sides, strict=True))
            mask[:, top : top + sides[0], left : left + sides[1]] = 1
        case "left":
            mask[:, :, : width // 2] = 1
        case "right":
            mask[:, :, width - width // 2 :] = 1
        case "top":
            mask[:, : height // 2] = 1
        case _:
            mask[:, height - height // 2 :] = 1
    return mask
