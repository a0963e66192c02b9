"""A content judge's accuracies: cross-domain retention (CRA) of UnlearnCanvas (2402.11846), and that of erased prompts.

The judge is an image classifier whose labels are those of the prompt files' column `class`. An eraser that forgets a
style by drawing noise keeps neither.
"""

import pandas as pd

from lethe.scoring import Value, Work, judged, known_mean

VERSION = 1
NEEDS = ()
METRICS = {
    "cra": {"unit": "%", "direction": "up", "meaning": "contents judged right in pictures of retain prompts"},
    "content_target": {
        "unit": "%",
        "direction": "up",
        "meaning": "contents judged right in pictures of erased prompts",
    },
}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `content_pred` (label), `content_prob` (its probability), `content_ok` (1, 0, NaN without a class)."""
    path = work.options["judges"]["content"]
    if not path:
        return {}, dict.fromkeys(METRICS, "no content judge (score.judges.content)")
    columns = judged(work, path, table["class"], "class")
    ok = 100 * columns["ok"]
    return {f"content_{key}": values for key, values in columns.items()}, {
        "cra": known_mean(ok[work.is_retained(table)], "no retain prompt has a class"),
        "content_target": known_mean(ok[work.is_erased(table)], "no erased prompt has a class"),
    }
