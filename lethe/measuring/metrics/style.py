"""A style judge on every picture. Its labels are those of the prompt files' column `artist`."""

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
    return networks.judge_look(work, "style")


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Columns `style_pred` (label), `style_prob` (its probability), `style_ok` (1 right, 0 wrong, NaN no artist)."""
    if not work.options["judges"]["style"]:
        return {}, {}
    columns = networks.judged(work, "style", table["artist"], "artist")
    return {f"style_{key}": values for key, values in columns.items()}, {}
