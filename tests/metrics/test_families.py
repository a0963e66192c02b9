"""Each family's arithmetic on hand-made predictions: no network is run."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lethe import judges, registry, scoring
from lethe.errors import UserError
from lethe.metrics import clip, content, cp, csd, fid, kid, style

CONCEPTS = {
    "monet": {"style": "monet", "neighbours": ["cassatt"], "pictures": "somewhere"},
    "picasso": {"style": "picasso", "neighbours": ["braque"], "pictures": None},
}
ROWS = [  # set, case_number, artist, class
    ("monet", 0, "monet", "boat"),
    ("monet", 1, "monet", "house"),
    ("monet", 2, "monet", "boat"),
    ("monet", 3, "monet", "boat"),
    ("picasso", 0, "picasso", "boat"),
    ("retain", 0, "cassatt", "boat"),
    ("retain", 1, "cassatt", "house"),
    ("retain", 2, "munch", "boat"),
    ("retain", 3, "monet", "boat"),  # an erased style is nothing to be retained
    ("eval", 0, None, None),
    ("eval", 1, None, None),
]


@pytest.fixture
def table() -> pd.DataFrame:
    found = pd.DataFrame(ROWS, columns=["set", "case_number", "artist", "class"])
    return found.assign(prompt=[f"p{i % 3}" for i in range(len(found))])


@pytest.fixture
def work() -> scoring.Work:
    chosen = {
        "clip": "a@b",
        "descriptor": "d",
        "features": "f",
        "judges": {"style": "s", "content": "c"},
        "kid_subsets": 2,
    }
    return scoring.Work(None, {"eval": ["row"]}, CONCEPTS, ["monet"], None, None, chosen, "cpu")


def predicting(monkeypatch, labels, predictions):
    """A judge that sees these labels in the pictures, each with probability 0.6."""
    probabilities = np.full((len(predictions), len(labels)), 0.4 / (len(labels) - 1))
    probabilities[np.arange(len(predictions)), [labels.index(p) for p in predictions]] = 0.6

    class Batch:
        def numpy(self):
            return probabilities

    monkeypatch.setattr(judges, "classifier", lambda path, device: (labels, lambda batch: (Batch(), None)))
    monkeypatch.setattr(scoring.Work, "drawn", lambda self: scoring.Pictures(1, lambda i: None))


def test_style_accuracies(work, table, monkeypatch):
    labels = ["monet", "picasso", "cassatt", "munch", "braque"]
    seen = ["monet", "munch", "munch", "braque", "picasso", "cassatt", "monet", "munch", "monet", "munch", "munch"]
    predicting(monkeypatch, labels, seen)
    columns, metrics = style.measure(work, table)
    assert list(columns["style_pred"]) == seen
    assert columns["style_prob"] == pytest.approx(0.6)
    np.testing.assert_array_equal(columns["style_ok"], [1, 0, 0, 0, 1, 1, 0, 1, 1, np.nan, np.nan])
    found = {name: (value.value, value.n) for name, value in metrics.items()}
    # picasso is not erased in this run: its prompts count as another style that must stay
    assert found == {"ua": (75, 4), "ira_neighbour": (50, 2), "ira_other": (100, 2)}
    assert metrics["ua"].lo <= 75 <= metrics["ua"].hi
    assert (metrics["ira_other"].lo, metrics["ira_other"].hi) == (100, 100)


def test_content_accuracies(work, table, monkeypatch):
    seen = ["boat", "boat", "boat", "house", "boat", "boat", "house", "house", "boat", "boat", "boat"]
    predicting(monkeypatch, ["boat", "house"], seen)
    columns, metrics = content.measure(work, table)
    np.testing.assert_array_equal(columns["content_ok"], [1, 0, 1, 0, 1, 1, 1, 0, 1, np.nan, np.nan])
    found = {name: (value.value, value.n) for name, value in metrics.items()}
    assert found == {"cra": (75, 4), "content_target": (50, 4)}


def test_labels_that_no_judge_knows_are_listed(work, table, monkeypatch):
    predicting(monkeypatch, ["monet", "picasso"], ["monet"] * len(table))
    with pytest.raises(UserError, match=r"column artist: cassatt, munch not among the labels of s \(monet, picasso\)"):
        style.measure(work, table)


def test_cp_is_the_share_of_prompts_whose_similarity_fell(work, table, tmp_path):
    table["clip"] = np.arange(len(table), dtype=float)
    reference = table.assign(clip=[1.0, 1.0, 1.5, 4.0, *[0.0] * 7])[::-1]  # another order of rows
    reference.to_csv(tmp_path / "scores.csv", index=False)
    columns, metrics = cp.measure(dataclasses.replace(work, reference=tmp_path), table)
    np.testing.assert_array_equal(columns["cp"], [1, 0, 0, 1, *[np.nan] * 7])
    assert (metrics["cp"].value, metrics["cp"].n) == (50, 4)
    _, metrics = cp.measure(work, table)
    assert metrics["cp"].value == 0  # the reference itself
    with pytest.raises(UserError, match="has no clip of monet/3"):
        reference[reference["clip"] != 4].to_csv(tmp_path / "scores.csv", index=False)
        cp.measure(dataclasses.replace(work, reference=tmp_path), table)
    with pytest.raises(UserError, match="no column clip"):
        reference.drop(columns="clip").to_csv(tmp_path / "scores.csv", index=False)
        cp.measure(dataclasses.replace(work, reference=tmp_path), table)


def describing(monkeypatch, prototype, drawn):
    """A descriptor that gives these embeddings: first for the concept's pictures, then for the drawn ones."""
    answers = iter([np.array(prototype, float), np.array(drawn, float)])
    monkeypatch.setattr(judges, "descriptor", lambda path, device: None)
    monkeypatch.setattr(judges, "stacked", lambda batches, network: next(answers))
    monkeypatch.setattr(csd, "pictures_of", lambda folder: scoring.Pictures(0, None))
    monkeypatch.setattr(scoring.Work, "entries", lambda self, name: [])
    monkeypatch.setattr(scoring.Work, "drawn", lambda self, entries: scoring.Pictures(0, None))


def test_csd_is_relative_to_the_reference(work, table, monkeypatch, tmp_path):
    work.rows["monet"] = ["row"]
    embeddings = [[1, 0], [0.28, 0.96], [0.6, 0.8], [0.8, 0.6]]
    describing(monkeypatch, [[1, 0], [1, 0]], embeddings)
    columns, metrics = csd.measure(work, table)
    np.testing.assert_allclose(columns["csd"], [100, 28, 60, 80, *[np.nan] * 7])
    assert metrics["csd_raw"].value == pytest.approx(67)
    assert metrics["csd"].value == pytest.approx(100)  # the reference itself
    assert (metrics["csd"].lo, metrics["csd"].hi) == pytest.approx((100, 100))
    table.assign(csd=[90, 70, 60, 80, *[np.nan] * 7]).to_csv(tmp_path / "scores.csv", index=False)
    describing(monkeypatch, [[2, 0], [0, 2]], embeddings)
    columns, metrics = csd.measure(dataclasses.replace(work, reference=tmp_path), table)
    np.testing.assert_allclose(columns["csd"][:4], 100 * np.array([1, 1.24, 1.4, 1.4]) / np.sqrt(2), rtol=1e-6)
    assert metrics["csd"].value == pytest.approx(100 * metrics["csd_raw"].value / 75)
    table.assign(csd=0.0).to_csv(tmp_path / "scores.csv", index=False)
    describing(monkeypatch, [[2, 0], [0, 2]], embeddings)
    _, metrics = csd.measure(dataclasses.replace(work, reference=tmp_path), table)
    assert metrics["csd"] == "the reference's similarity is not above 0"


def test_csd_is_absent_without_descriptor_or_pictures(work, table, monkeypatch):
    lacking = dataclasses.replace(work, options=work.options | {"descriptor": None})
    assert csd.measure(lacking, table) == ({}, dict.fromkeys(csd.METRICS, "no descriptor (score.descriptor)"))
    monkeypatch.setattr(judges, "descriptor", lambda path, device: None)
    _, metrics = csd.measure(dataclasses.replace(work, erased=["picasso"]), table)
    assert all("no pictures" in reason for reason in metrics.values())


def test_clip_averages_erased_and_eval_prompts(work, table, monkeypatch):
    texts = {"p0": [1, 0], "p1": [0, 1], "p2": [0.6, 0.8]}
    pictures = np.tile([1.0, 0.0], (len(table), 1))
    answers = iter([np.array(list(texts.values()), float), pictures])
    monkeypatch.setattr(judges, "clip", lambda name, device: (None, None))
    monkeypatch.setattr(judges, "stacked", lambda batches, network: next(answers))
    monkeypatch.setattr(scoring.Work, "drawn", lambda self: scoring.Pictures(0, None))
    columns, metrics = clip.measure(work, table)
    np.testing.assert_allclose(columns["clip"], [100 * texts[p][0] for p in table["prompt"]])
    assert metrics["clip_concept"].value == pytest.approx((100 + 0 + 60 + 100) / 4)
    assert metrics["clip_retain"].value == pytest.approx((100 + 0) / 2)  # rows 9 and 10


def test_missing_judges_and_sets_leave_metrics_out_with_a_reason(work, table):
    without = work.options | {"judges": {"style": None, "content": None}}
    bare = dataclasses.replace(work, options=without, rows={})
    for family in (style, content, fid, kid):
        columns, metrics = family.measure(bare, table)
        assert columns == {}
        assert metrics.keys() == family.METRICS.keys()
        assert all(isinstance(reason, str) for reason in metrics.values())


def test_a_metric_of_pictures_without_labels_is_absent(work, table, monkeypatch):
    predicting(monkeypatch, ["boat", "house"], ["boat"] * len(table))
    _, metrics = content.measure(work, table.assign(**{"class": None}))
    assert metrics == {"cra": "no retain prompt has a class", "content_target": "no erased prompt has a class"}


def test_every_family_declares_what_it_measures():
    for name in registry.names("metrics"):
        assert isinstance(registry.literal("metrics", name, "VERSION"), int)
        assert set(registry.literal("metrics", name, "NEEDS")) <= set(registry.names("metrics"))
        for about in registry.literal("metrics", name, "METRICS").values():
            assert about.keys() == {"unit", "direction", "meaning"}
            assert about["direction"] in ("up", "down")
    assert scoring.order().index("clip") < scoring.order().index("cp")


def test_mean_and_its_interval():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = scoring.mean(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 400)
    half = 1.96 * values.std() / 20
    assert found.lo == pytest.approx(values.mean() - half, abs=0.03)
    assert found.hi == pytest.approx(values.mean() + half, abs=0.03)
    assert scoring.mean(values) == found
