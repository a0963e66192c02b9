"""A judge of contents on every picture. Its labels are those of the prompt files' column `class`."""

import pandas as pd

from lethe.measuring import networks
from lethe.measuring.looking import Look
from lethe.measuring.values import Value
from lethe.measuring.work import Work

VERSION = 2
NEEDS = ()
METRICS: dict[str, dict] = {}  # what follows from its columns stands in the families `shown` and `kept`


def looks(work: Work) -> dict[str, Look]:
    """Its probabilities."""
    return networks.judge_look(work, "content")


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `content_pred` (label), `content_prob` (its probability), `content_ok` (1, 0, NaN without a class)."""
    if not work.options["judges"]["content"]:
        return {}, {}
    columns = networks.judged(work, "content", table["class"], "class")
    return {f"content_{key}": values for key, values in columns.items()}, {}
