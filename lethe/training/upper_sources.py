"""Where the batches of upper steps come from: a function from the step's number k to a batch, a pure one."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from lethe.models.schedulers import build_scheduler
from lethe.stage.record import Budget
from lethe.training.data import Captions, generator, shares
from lethe.training.finetune import Batch, Setting, Source, draw, joined
from lethe.training.trajectories import Trajectories

GUIDANCE = 3.0  # of trajectories: ESD's (arXiv 2303.07345)


def find(setting: Setting, options: Mapping, seed: int, budget: Budget) -> Source:
    """The source that `options["upper_source"]` names. What the teacher does for it counts in `budget`."""
    sources: dict[str, Callable[..., Source]] = {"pictures": pictures, "trajectories": trajectories}
    return sources[options["upper_source"]](setting, options, seed, budget)


def pictures(setting: Setting, options: Mapping, seed: int, budget: Budget) -> Source:
    """Noised pictures of the concepts, which share a batch equally."""

    def source(k: int) -> Batch:
        counts = shares(options["upper_batch"], len(setting.concepts), k)
        return draw(setting.concepts, counts, setting.schedule, generator(seed, "upper", k))

    return source


def trajectories(setting: Setting, options: Mapping, seed: int, budget: Budget) -> Source:
    """x_t that the teacher has on its way to pictures of the concepts' captions, guided by 3 (ESD, arXiv 2303.07345).

    A window of `upper_batch` trajectories, whose captions the concepts share equally, serves `upper_reuse` steps, each
    taking another of the `upper_sampler_steps` DDIM steps of each trajectory. Costs 2 * upper_batch teacher forwards
    for each DDIM step until the last that is taken.
    """
    size, steps = options["upper_batch"], options["upper_sampler_steps"]
    concepts, reuse = setting.concepts, options["upper_reuse"]

    @lru_cache(maxsize=1)
    def captions(window: int) -> Captions:
        """The captions of a window's rows."""
        draws = generator(seed, "upper", window)
        counts = shares(size, len(concepts), window)
        parts = [own.captions(own.rows(draws, n)) for own, n in zip(concepts, counts, strict=True) if n]
        text = torch.cat([part.text for part in parts])
        return Captions(text, *(joined(column) for column in zip(*(part[1:] for part in parts), strict=True)))

    _, channels, height, width = concepts[0].mean.shape
    states = Trajectories(
        setting.teacher,
        build_scheduler("ddim", setting.scheduler, steps),
        concepts[0].empty,
        lambda window: captions(window).text,
        (channels, height, width),
        {"batch": size, "guidance": GUIDANCE, "sampler_steps": steps, "reuse": reuse},
        seed,
        sys.maxsize,  # how many upper steps there are is the solver's to say
    )

    def source(k: int) -> Batch:
        found = states.at(k, budget)
        _, anchor, mask, end = captions(k // reuse)
        answers = found.null, found.conditional
        return Batch(None, None, found.noisy, found.t, found.text, concepts[0].empty, anchor, mask, end, answers)

    return source
