"""P4D, Prompting4Debugging (Chin et al. 2024, arXiv 2309.06135): adversarial tokens that make the victim answer as the
dense base does to the clean prompt.

    min over c'  mean (f(x_t, t, [c'; prompt]) - f_dense(x_t, t, prompt))^2

x_t is the noised picture that the dense base drew for the prompt and seed; f_dense reads the prompt with the base's own
text encoder. The search is that of lethe/attacking/token_search.py: UnlearnDiffAtk's, as its authors run P4D to compare
with. The released P4D moves embeddings and takes the nearest tokens, at random timesteps, for 3000 steps with lr 0.1,
and keeps those whose picture is most like the original's for CLIP. One teacher forward more than UnlearnDiffAtk for
each noising.
"""

from collections.abc import Mapping
from types import SimpleNamespace

import torch

from lethe.attacking.token_search import Noised, Target, search
from lethe.attacking.victims import Attacked, Victim
from lethe.drawing.sampling import encode_unique
from lethe.erasing.erased import original_text_encoder
from lethe.stage.record import Budget
from lethe.training.finetune import ask
from lethe.training.loop import Keeping
from lethe.training.losses import Schedule

NEEDS = ["originals", "dense"]
OPTIONS = {"$ref": "#/$defs/token_search"}


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping, budget: Budget) -> Attacked:
    """Raises UserError if the tokens do not fit, or for more timesteps than the schedule has."""
    prompts = [row.prompt for _, row in victim.pictures()]
    reader = SimpleNamespace(tokenizer=victim.base.tokenizer, text_encoder=original_text_encoder(victim.base))
    read = encode_unique(reader, prompts)
    clean = torch.stack([read[prompt] for prompt in prompts]).float().to(victim.device)

    def target(_: Schedule) -> Target:
        def dense(shown: Noised) -> torch.Tensor:
            return ask(victim.dense(), shown.noisy, shown.t, clean[shown.rows], budget)

        return dense

    return search(victim, options, target, "p4d", seed, keeping, budget)
