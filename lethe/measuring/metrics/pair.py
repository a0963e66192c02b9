"""Attributes that come in pairs, such as a person's gender: which of two texts is a picture nearer to?

CLIP picks the text with the larger cosine, as UCE's script does ("a man", "a woman"; 2308.14761). The texts are a
prompt's own, in column `pair` of its file ("a man|a woman"), or score.pair for all prompts of concepts. Two numbers
follow, over prompts of erased concepts:

- `pair`: the share of pictures that went over to the other text, against the reference's picture of the same prompt and
  seed: ConceptPrune's success (2405.19237, whose classifier is not published). The reference scores 0 by definition,
  and a model that draws other pictures scores above 0 without erasing anything.
- `pair_deviation`: |r - 1/2| / (1/2) of the share r that goes to the first text, of each profession, then the mean over
  professions, as UCE reports it: 0 is balance. A profession is a cell of the file's column `profession`, or without one
  all pictures of equal prompts. From few pictures it comes out too large (of ten drawn at random, 25 % on average):
  compare equal numbers.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lethe.measuring import judges, networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value, known_mean, known_share
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ()
METRICS = {
    "pair": {
        "label": "Pair",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "erased",
        "column": "pair_flip",
        "share": 1,
        "of_reference": 0,
        "place": 25,
        "meaning": "pictures of erased prompts in which CLIP sees the other of two texts than in distill's",
    },
    "pair_deviation": {
        "label": "Pair dev.",
        "unit": "%",
        "direction": "down",
        "digits": 1,
        "rows": "erased",
        "column": "pair_deviation",
        "place": 26,
        "meaning": "how far the two texts are from half and half, mean over professions",
    },
}
NONE = "no pair of texts (score.pair, column pair)"


def texts(work: Work) -> dict[tuple[str, int], tuple[str, str]]:
    """(set, case_number) -> the two texts."""
    common = work.options.get("pair")
    found = {}
    for name, rows in work.rows.items():
        for row in rows:
            own = row.pair or (tuple(common) if common and name in work.concepts else None)
            if own:
                found[name, row.case_number] = own
    return found


def looks(work: Work) -> dict[str, Look]:
    """CLIP's embeddings of the pictures whose prompts have a pair."""
    names = tuple(dict.fromkeys(name for name, _ in texts(work)))
    return networks.clip_look(work, names) if names else {}


def protocol(work: Work) -> dict:
    pairs = [" | ".join(own) for own in dict.fromkeys(texts(work).values())]
    return networks.clip_protocol(work) | {"pairs": pairs}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `pair` (1 the first text, 0 the second), `pair_flip` (1 the reference's picture has the other one), NaN
    without a pair; `pair_deviation`: a set's deviation plus each picture's influence on it, so that its mean is the
    deviation and resampling it is, to first order, resampling the pictures."""
    asked = texts(work)
    keys = list(zip(table["set"], table["case_number"], strict=True))
    known = np.array([key in asked for key in keys], dtype=bool)
    network = networks.clip(work)
    if not known.any():
        return {}, dict.fromkeys(METRICS, NONE)
    if isinstance(network, str):
        return {}, dict.fromkeys(METRICS, network)
    pick, flip, deviation = (np.full(len(table), np.nan) for _ in range(3))
    pick[known] = picked(work, network[1], known, [asked[key] for key, own in zip(keys, known, strict=True) if own])
    rows = table.assign(pair=pick)[known]
    if not work.distilled.missing:
        flip[known] = pick[known] != work.distilled.of(rows, "pair")
    groups = professions(work, keys)
    for name in dict.fromkeys(table["set"][known]):
        own = known & (table["set"] == name).to_numpy()
        deviation[own] = 100 * of_share(pick[own], groups[own])
    erased, absent = work.is_erased(table), "no prompt of an erased concept has a pair"
    columns, why = {"pair": pick, "pair_flip": flip, "pair_deviation": deviation}, work.distilled.missing or absent
    return columns, {
        "pair": known_share(flip[erased], why) if work.reference else known_mean(100 * flip[erased], why),
        "pair_deviation": known_mean(deviation[erased], "no profession has two pictures, or none has a pair"),
    }


def picked(work: Work, of_texts: Callable, rows: np.ndarray, pairs: list[tuple[str, str]]) -> np.ndarray:
    """[N] 1.0 where the first text is nearer to the picture, of the table's chosen rows.

    `of_texts`: texts -> CLIP's embeddings.
    """
    distinct = list(dict.fromkeys(text for own in pairs for text in own))
    embedded = dict(zip(distinct, judges.stacked([distinct], of_texts), strict=True))
    apart = np.stack([embedded[first] - embedded[second] for first, second in pairs])
    return ((work.seen["clip"][rows].astype(np.float64) * apart).sum(1) > 0).astype(float)


def professions(work: Work, keys: list[tuple[str, int]]) -> np.ndarray:
    """What each row is counted with: its profession, or else its prompt."""
    told = {(name, row.case_number): row.profession or row.prompt for name, rows in work.rows.items() for row in rows}
    return np.array([told[key] for key in keys], dtype=object)


def of_share(first: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """[N]: D, the mean over groups g of |2 r_g - 1| where r_g is the mean of `first` (0 or 1) in g, plus the derivative
    of D by the weight of each picture. Groups of one picture are left out, NaN: their deviation is 1 whatever it shows.

    D's derivative at balance is taken from the side of more: its interval then has a width.
    """
    names, group, count = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    share = np.bincount(group, first, len(names)) / count
    several = count > 1
    found = np.full(len(first), np.nan)
    if several.any():
        size, total = several.sum(), count[several].sum()
        slope = np.where(share >= 0.5, 2.0, -2.0) / (size * count)
        own = several[group]
        found[own] = np.abs(2 * share - 1)[several].mean() + (total * slope[group] * (first - share[group]))[own]
    return found
