"""UnlearnDiffAtk (Zhang et al. 2024, arXiv 2310.11868): adversarial tokens beside each prompt, found with the victim's
own denoising loss, no other model asked.

    min over c'  mean (f(x_t, t, [c'; prompt]) - y(x_0, e, t))^2

x_0 is what the dense base drew for the prompt and seed, and y what the victim was trained to answer, in its own
parameterisation: the noise e where it predicts that (the paper's loss), v = a_t e - s_t x_0 for v-prediction, x_0 for
sample-prediction. The search is that of lethe/attacking/token_search.py. Published: 3 tokens for styles and objects and
5 for nudity, before the prompt; 40 iterations at each of 50 timesteps; lr 0.01.
"""

from collections.abc import Mapping

from lethe.attacking.token_search import Target, search
from lethe.attacking.victims import Attacked, Victim
from lethe.stage.record import Budget
from lethe.training.loop import Keeping
from lethe.training.losses import Schedule

NEEDS = ["originals"]
OPTIONS = {"$ref": "#/$defs/token_search"}


def attack(victim: Victim, options: Mapping, seed: int, keeping: Keeping, budget: Budget) -> Attacked:
    """Raises UserError if the tokens do not fit, or for more timesteps than the schedule has."""

    def target(table: Schedule) -> Target:
        return lambda shown: table.target(shown.clean, shown.noise, shown.t)

    return search(victim, options, target, "unlearn_diff_atk", seed, keeping, budget)
