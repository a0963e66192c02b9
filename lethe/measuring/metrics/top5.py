"""Objects counted as ESD and UCE do (2303.07345, 2308.14761): is a prompt's class among the judge's five likeliest?

ConceptPrune counts the likeliest alone (`ua` and the IRA of an erased object). The judge of contents is the same. Both
published counts take a ResNet-50 on the ten classes of Imagenette (`python -m lethe.measuring.backbones resnet50`).
"""

import numpy as np
import pandas as pd

from lethe.measuring import judges
from lethe.measuring.values import Value, known_share
from lethe.measuring.work import Work

VERSION = 1
NEEDS = ("content",)
METRICS = {
    "ua_top5": {
        "label": "UA top 5",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "erased",
        "column": "content_top5",
        "share": 0,
        "place": 72,
        "table": ["style"],
        "meaning": "pictures of erased objects without the object among the judge's five likeliest",
    },
    "ira_top5": {
        "label": "IRA top 5",
        "unit": "%",
        "direction": "up",
        "digits": 1,
        "rows": "retain",
        "column": "content_top5",
        "share": 1,
        "place": 92,
        "table": ["style"],
        "meaning": "pictures that must stay with their object among the judge's five likeliest",
    },
}
TOP = 5


def protocol(work: Work) -> dict:
    return {"judges": {"content": work.options["judges"]["content"]}}


def measure(work: Work, table: pd.DataFrame) -> tuple[dict, dict[str, Value | str]]:
    """Column `content_top5`: 1 the prompt's class is among the five, 0 not; NaN without a class, and for prompts of
    erased concepts that are no objects."""
    kinds = {name: work.concepts[name]["kind"] for name in work.erased}
    if "object" not in kinds.values():
        return {}, dict.fromkeys(METRICS, "no object is erased (concepts.NAME.kind)")
    if not work.options["judges"]["content"]:
        none = "no judge of contents (score.judges.content)"
        return {}, dict.fromkeys(METRICS, work.lacking.get("judges.content", none))
    labels, _ = judges.classifier(work.options["judges"]["content"], work.device)
    if len(labels) <= TOP:
        return {}, dict.fromkeys(METRICS, f"the judge of contents knows {len(labels)} classes; five are all of them")
    likeliest = np.array(labels, dtype=object)[np.argsort(-work.seen["content"], axis=1, kind="stable")[:, :TOP]]
    others = [name for name, kind in kinds.items() if kind != "object"]
    known = (table["class"].notna() & ~table["set"].isin(others)).to_numpy()
    found = np.where(known, (likeliest == table["class"].to_numpy()[:, None]).any(1), np.nan)
    return {"content_top5": found}, {
        "ua_top5": known_share(1 - found[work.is_erased(table)], "no prompt of an erased object has a class"),
        "ira_top5": known_share(found[work.is_retained(table)], "no retain prompt has a class"),
    }
