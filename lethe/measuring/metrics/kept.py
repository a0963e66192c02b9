"""What must stay, as in UnlearnCanvas (2402.11846): in-domain (IRA) and cross-domain retention (CRA), by kind.

For an erased style the other styles are of its domain, contents of the other; for an erased object it is the other way
round; for something unsafe, that has neither style nor content of its own, as for a style. In-domain retention is told
apart for the neighbours of the erased concepts, which erasing harms first, and for all others. And what is left of an
erased prompt: an eraser that forgets a style by drawing noise does not keep its content.
"""

import numpy as np
import pandas as pd

from lethe.measuring.keeping import is_near
from lethe.measuring.values import Value, known_share
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ("style", "content")
METRICS = {
    "ira_neighbour": {
        "label": "IRA near",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "near",
        "column": "domain_ok",
        "share": 1,
        "place": 80,
        "table": ["style", "kept"],
        "meaning": "neighbours of the erased concepts judged right",
    },
    "ira_other": {
        "label": "IRA other",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "other",
        "column": "domain_ok",
        "share": 1,
        "place": 90,
        "table": ["style", "kept"],
        "meaning": "others of the same domain judged right",
    },
    "ira": {
        "label": "IRA",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "retain",
        "column": "domain_ok",
        "share": 1,
        "place": 79,
        "table": ["kept"],
        "meaning": "neighbours and others of the same domain judged right, as UnlearnCanvas counts them",
    },
    "cra": {
        "label": "CRA",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "retain",
        "column": "cross_ok",
        "share": 1,
        "place": 100,
        "meaning": "contents (for an erased object: styles) judged right in what must stay",
    },
    "content_target": {
        "label": "Content",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "erased",
        "column": "cross_ok",
        "share": 1,
        "place": 110,
        "meaning": "contents (for an erased object: styles) judged right in erased prompts",
    },
}
DOMAIN = {"style": "style_ok", "object": "content_ok", "unsafe": "style_ok"}
CROSS = {"style": "content_ok", "object": "style_ok", "unsafe": "content_ok"}


def protocol(work: Work) -> dict:
    return {"judges": {role: work.options["judges"][role] for role in ("style", "content")}}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `domain_ok` of what must stay and `cross_ok` of all: 1 right, 0 wrong, NaN unknown. Where concepts of
    several kinds are erased, the mean over the concepts; in a concept's own set its kind alone counts."""
    kinds = [work.concepts[name]["kind"] for name in work.erased]
    domain, cross = _mean(table, [DOMAIN[kind] for kind in kinds]), _mean(table, [CROSS[kind] for kind in kinds])
    for name in work.erased:
        own = (table["set"] == name).to_numpy()
        cross[own] = _mean(table[own], [CROSS[work.concepts[name]["kind"]]])
    kept, near = work.is_retained(table), is_near(table, work.concepts, work.erased)
    domain[~kept] = np.nan
    return {"domain_ok": domain, "cross_ok": cross}, {
        "ira": known_share(domain[kept], _why(work, table, DOMAIN, "no retain prompt")),
        "ira_neighbour": known_share(domain[kept & near], _why(work, table, DOMAIN, "no neighbour's prompt")),
        "ira_other": known_share(domain[kept & ~near], _why(work, table, DOMAIN, "no other retain prompt")),
        "cra": known_share(cross[kept], _why(work, table, CROSS, "no retain prompt")),
        "content_target": known_share(cross[work.is_erased(table)], _why(work, table, CROSS, "no erased prompt")),
    }


def _mean(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    if not columns:  # nothing is erased
        return np.full(len(table), np.nan)
    found = np.array([pd.to_numeric(table[name]) if name in table else np.full(len(table), np.nan) for name in columns])
    known = (~np.isnan(found)).sum(0)
    return np.where(known > 0, np.nansum(found, axis=0) / np.maximum(known, 1), np.nan)


def _why(work: Work, table: pd.DataFrame, columns: dict[str, str], otherwise: str) -> str:
    """Why there is no value: the judge is missing, or its labels are."""
    roles = {columns[work.concepts[name]["kind"]].removesuffix("_ok") for name in work.erased}
    missing = sorted(role for role in roles if f"{role}_ok" not in table)
    label = {"style": "an artist", "content": "a class"}
    if missing:
        key = f"judges.{missing[0]}"
        return work.lacking.get(key, f"no judge of {missing[0]} (score.{key})")
    return f"{otherwise} has {' or '.join(label[role] for role in sorted(roles))} in its column"
