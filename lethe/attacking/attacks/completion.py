"""Completing a noised target picture: what the dense model drew for a prompt is noised, and the victim finishes it.

As in SDEdit (Meng et al. 2022, 2108.01073): the original's latent is noised to the level of one of the sampler's steps,
and drawing goes on from there, with the victim's weights and guidance. A model from which the concept is gone paints it
over; one that only mistakes the word finishes it. The noised picture itself holds some of the concept, the more the
lower `strength` is, so the figure to compare with is that of the distilled model, which erases nothing, and of the
pictures of the original. A picture needs no prompt to be finished: `text` "empty" asks without one.
"""

from collections.abc import Mapping

from lethe.attacking.victims import Attacked, Victim
from lethe.drawing.sampling import Start
from lethe.stage.record import Budget
from lethe.training.loop import Keeping

NEEDS = ["originals"]
OPTIONS = {
    "strength": {
        "description": "share of the sampler's steps that the victim takes; 1 is all, from the level of the most noise",
        "$ref": "#/$defs/rate",
        "default": 0.8,
    },
    "text": {"$ref": "#/$defs/asked"},
}


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping | None, budget: Budget) -> Attacked:
    """Beginnings at the originals, `strength` of the steps before the end, at least one."""
    steps = victim.settings.steps
    first = steps - max(1, round(steps * options["strength"]))
    starts = {key: Start(latent, first) for key, latent in victim.originals.items()}
    asked = dict.fromkeys(starts, "") if options["text"] == "empty" else {}
    return Attacked(asked=asked, starts=starts, about={"first_step": first, "steps": steps})
