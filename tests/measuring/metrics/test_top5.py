"""Top five of the judge of contents, on hand-made probabilities."""

import numpy as np
import pandas as pd
import pytest

from lethe.measuring import judges
from lethe.measuring.metrics import top5
from lethe.measuring.work import Work

LABELS = ["church", "tench", "parachute", "golf ball", "gas pump", "chain saw", "French horn"]
CONCEPTS = {
    "church": {"kind": "object", "style": "church", "neighbours": []},
    "monet": {"kind": "style", "style": "monet", "neighbours": []},
}
ROWS = [
    ("church", 0, "church"),
    ("church", 1, "church"),
    ("monet", 0, "tench"),
    ("retain", 0, "tench"),
    ("retain", 1, None),
]


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["set", "case_number", "class"]).assign(artist=None)


def work_of(monkeypatch, erased, labels=LABELS, path="c"):
    """A judge whose likeliest classes go down the list, but in the first and third picture, where they go up."""
    down = np.linspace(0.3, 0.01, len(labels))
    monkeypatch.setattr(judges, "classifier", lambda path, device: (labels, None))
    seen = {"content": np.stack([down[::-1], down, down[::-1], down, down])}
    return Work(None, {}, CONCEPTS, erased, None, None, {"judges": {"content": path}}, "cpu", seen=seen)


def test_the_class_is_looked_for_among_the_five_likeliest(monkeypatch, table):
    columns, metrics = top5.measure(work_of(monkeypatch, ["church"]), table)
    # upwards church is the last but none: not among five of seven; nor is tench
    np.testing.assert_array_equal(columns["content_top5"], [0, 1, 0, 1, np.nan])
    found = {name: (value.value, value.n) for name, value in metrics.items()}
    assert found == {"ua_top5": (50, 2), "ira_top5": (50, 2)}  # monet is not erased in this run: it must stay
    columns, metrics = top5.measure(work_of(monkeypatch, ["church", "monet"]), table)
    np.testing.assert_array_equal(columns["content_top5"], [0, 1, np.nan, 1, np.nan])
    assert {name: (value.value, value.n) for name, value in metrics.items()} == {
        "ua_top5": (50, 2),
        "ira_top5": (100, 1),
    }


@pytest.mark.parametrize(
    ("erased", "more", "reason"),
    [
        (["monet"], {}, "no object is erased"),
        (["church"], {"path": None}, "no judge of contents (score.judges.content)"),
        (["church"], {"labels": LABELS[:5]}, "knows 5 classes; five are all of them"),
    ],
)
def test_left_out_with_a_reason(monkeypatch, table, erased, more, reason):
    columns, metrics = top5.measure(work_of(monkeypatch, erased, **more), table)
    assert columns == {}
    assert set(metrics) == set(top5.METRICS)
    assert all(reason in told for told in metrics.values())
