"""A style judge's accuracies, as in UnlearnCanvas (2402.11846): unlearning (UA) and in-domain retention (IRA).

The judge is an image classifier whose labels are those of the prompt files' column `artist`. Retention is told apart
for the neighbours of the erased concepts, the styles that erasing harms first, and for all others.
"""

import pandas as pd

from lethe.scoring import Value, Work, judged, known_mean

VERSION = 1
NEEDS = ()
METRICS = {
    "ua": {"unit": "%", "direction": "up", "meaning": "pictures of erased prompts not judged to be in that style"},
    "ira_neighbour": {"unit": "%", "direction": "up", "meaning": "pictures in a neighbouring style judged right"},
    "ira_other": {"unit": "%", "direction": "up", "meaning": "pictures in any other kept style judged right"},
}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `style_pred` (label), `style_prob` (its probability), `style_ok` (1 right, 0 wrong, NaN no artist)."""
    path = work.options["judges"]["style"]
    if not path:
        return {}, dict.fromkeys(METRICS, "no style judge (score.judges.style)")
    columns = judged(work, path, table["artist"], "artist")
    ok = 100 * columns["ok"]
    near, kept = table["artist"].isin(work.neighbours()).to_numpy(), work.is_retained(table)
    return {f"style_{key}": values for key, values in columns.items()}, {
        "ua": known_mean((100 - ok)[work.is_erased(table)], "no erased prompt has an artist"),
        "ira_neighbour": known_mean(ok[kept & near], "no retain prompt is in a neighbouring style"),
        "ira_other": known_mean(ok[kept & ~near], "no retain prompt is in another style"),
    }
