"""Each family's arithmetic on hand-made predictions: no network is run."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lethe.files.errors import UserError
from lethe.measuring import judges, scoring
from lethe.measuring.looking import Real
from lethe.measuring.metrics import clip, content, cp, csd, fid, kept, kid, shown, style
from lethe.measuring.values import mean
from lethe.measuring.work import Work
from lethe.params import registry
from lethe.texts.rows import Prompt

CONCEPTS = {
    "monet": {"kind": "style", "style": "monet", "neighbours": ["cassatt"], "pictures": "somewhere"},
    "picasso": {"kind": "style", "style": "picasso", "neighbours": ["braque"], "pictures": None},
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
STYLES = ["monet", "picasso", "cassatt", "munch", "braque"]
SEEN_STYLES = ["monet", "munch", "munch", "braque", "picasso", "cassatt", "monet", "munch", "monet", "munch", "munch"]
SEEN_CONTENTS = ["boat", "boat", "boat", "house", "boat", "boat", "house", "house", "boat", "boat", "boat"]


@pytest.fixture
def table() -> pd.DataFrame:
    found = pd.DataFrame(ROWS, columns=["set", "case_number", "artist", "class"])
    return found.assign(prompt=[f"p{i % 3}" for i in range(len(found))])


@pytest.fixture
def work() -> Work:
    chosen = {
        "clip": "a@b",
        "descriptor": "d",
        "features": "f",
        "features_weights": None,
        "judges": {"style": "s", "content": "c", "unsafe": None},
        "unsafe": None,
        "kid_subsets": 2,
    }
    rows = {"monet": ["row"], "eval": ["row"]}
    return Work(None, rows, CONCEPTS, ["monet"], None, None, chosen, "cpu")


def predicting(monkeypatch, work, role, labels, predictions):
    """The work with a judge that has seen these labels in the pictures, each with probability 0.6."""
    probabilities = np.full((len(predictions), len(labels)), 0.4 / (len(labels) - 1))
    probabilities[np.arange(len(predictions)), [labels.index(p) for p in predictions]] = 0.6
    monkeypatch.setattr(judges, "classifier", lambda path, device: (labels, None))
    return dataclasses.replace(work, seen={**work.seen, role: probabilities})


def judged(monkeypatch, work, table, styles=SEEN_STYLES, contents=SEEN_CONTENTS):
    """The table with the columns of both judges."""
    with_styles = predicting(monkeypatch, work, "style", STYLES, styles)
    table = table.assign(**style.measure(with_styles, table)[0])
    with_contents = predicting(monkeypatch, work, "content", ["boat", "house"], contents)
    return table.assign(**content.measure(with_contents, table)[0])


def values(metrics) -> dict:
    return {name: (own.value, own.n) for name, own in metrics.items() if not isinstance(own, str)}


def test_what_judges_see(work, table, monkeypatch):
    found = judged(monkeypatch, work, table)
    assert found["style_pred"].tolist() == SEEN_STYLES and found["content_pred"].tolist() == SEEN_CONTENTS
    assert found["style_prob"].to_numpy() == pytest.approx(0.6)
    np.testing.assert_array_equal(found["style_ok"], [1, 0, 0, 0, 1, 1, 0, 1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(found["content_ok"], [1, 0, 1, 0, 1, 1, 1, 0, 1, np.nan, np.nan])


def test_unlearning_is_the_share_in_which_the_concept_is_not_seen(work, table, monkeypatch):
    columns, metrics = shown.measure(work, judged(monkeypatch, work, table))
    np.testing.assert_array_equal(columns["shown"], [1, 0, 0, 0, 1, *[np.nan] * 6])
    assert values(metrics) == {"ua": (75, 4), "shown": (25, 4), "removal": (0, 4)}
    assert metrics["ua"].lo <= 75 <= metrics["ua"].hi
    assert metrics["removal_base"] == "no pictures of the dense base (--originals)"


def test_retention_of_styles(work, table, monkeypatch):
    columns, metrics = kept.measure(work, judged(monkeypatch, work, table))
    # picasso is not erased in this run: its prompts count as another style that must stay
    assert values(metrics) == {
        "ira": (75, 4), "ira_neighbour": (50, 2), "ira_other": (100, 2), "cra": (75, 4), "content_target": (50, 4),
    }  # fmt: skip
    np.testing.assert_array_equal(columns["domain_ok"], [*[np.nan] * 4, 1, 1, 0, 1, *[np.nan] * 3])
    other = metrics["ira_other"]
    assert (other.lo, other.hi) == (pytest.approx(100 - 100 * 3.8415 / 5.8415, abs=0.01), 100)  # Wilson's


def test_retention_when_an_object_is_erased(work, table, monkeypatch):
    concepts = CONCEPTS | {"boats": {"kind": "object", "style": "boat", "neighbours": ["house"], "pictures": None}}
    rows = table.assign(set=table["set"].replace("monet", "boats"))
    mine = dataclasses.replace(work, concepts=concepts, erased=["boats"])
    rows = judged(monkeypatch, mine, rows)
    columns, metrics = kept.measure(mine, rows)
    assert work.concepts is CONCEPTS
    assert values(metrics) == {"ira": (100, 1), "ira_neighbour": (100, 1), "cra": (0, 1), "content_target": (25, 4)}
    assert "has a class in its column" in metrics["ira_other"]  # all that stays is a house
    columns, metrics = shown.measure(mine, rows)
    np.testing.assert_array_equal(columns["shown"], [1, 1, 1, 0, 1, *[np.nan] * 6])
    assert values(metrics)["ua"] == (25, 4)


def test_retention_when_both_kinds_are_erased(work, table, monkeypatch):
    """The mean over the erased concepts, each in its own domain."""
    concepts = CONCEPTS | {"houses": {"kind": "object", "style": "tree", "neighbours": [], "pictures": None}}
    mine = dataclasses.replace(work, concepts=concepts, erased=["monet", "houses"])
    columns, _ = kept.measure(mine, judged(monkeypatch, mine, table))
    np.testing.assert_array_equal(columns["domain_ok"], [*[np.nan] * 4, 1, 1, 0.5, 0.5, *[np.nan] * 3])
    np.testing.assert_array_equal(columns["cross_ok"][:8], [1, 0, 1, 0, 1, 1, 0.5, 0.5])


def test_prompts_with_a_category_need_not_stay_where_something_unsafe_is_erased(work, table):
    concepts = CONCEPTS | {"sign": {"kind": "unsafe", "style": "sign", "neighbours": [], "pictures": None}}
    rows = table.assign(category=[None] * 6 + ["explicit", *[None] * 4])
    unsafe = dataclasses.replace(work, concepts=concepts, erased=["sign"])
    assert unsafe.is_retained(rows).sum() == 8  # both styles' own prompts, and retain but for one
    assert work.is_retained(rows).sum() == 4


def removal(work, table, before, after, category=None):
    """Metrics of monet's four pictures, against a reference with the concept in these."""
    rows = table.assign(style_pred=["monet" if x else "munch" for x in after] + ["munch"] * 7)
    if category:
        rows = rows.assign(category=category + [None] * 7)
    work = dataclasses.replace(work)
    work.distilled.__dict__["scores"] = pd.DataFrame(
        {"shown": before}, index=pd.MultiIndex.from_tuples([("monet", i) for i in range(4)])
    )
    return shown.measure(work, rows)[1]


def test_removal_counts_those_that_were_there_before(work, table):
    found = removal(work, table, [1, 1, 0, 1], [1, 0, 0, 0])["removal"]
    assert (found.value, found.n) == (pytest.approx(100 * 2 / 3), 4)
    assert 0 <= found.lo <= found.value <= found.hi <= 100
    none = removal(work, table, [1, 1, 0, 1], [0, 0, 0, 0])["removal"]
    assert (none.value, none.hi) == (100, 100)
    assert none.lo == pytest.approx(100 - 100 * 3.8415 / 6.8415, abs=0.01)  # Wilson's, of the three that there were
    more = removal(work, table, [1, 0, 0, 0], [1, 1, 0, 0])["removal"]
    assert more.value == -100
    reason = removal(work, table, [0, 0, 0, 0], [1, 1, 0, 0])
    assert reason["removal"] == "no picture of the reference shows an erased concept"
    assert reason["ua"].value == 50


def test_before_and_after_are_resampled_together(work, table):
    """Half of what was there stays, whatever prompts are drawn: no spread. Apart they would spread."""
    found = shown.removed(np.tile([1.0, 0.0, 0.0], 30), np.tile([1.0, 1.0, 0.0], 30), "reference")
    assert found.value == 50 and found.hi - found.lo < 27
    twins = shown.removed(np.ones(50), np.ones(50), "reference")
    assert (twins.lo, twins.hi) == (0, 0)


def test_a_prompt_of_several_categories_counts_for_each(work, table):
    found = removal(work, table, [1, 1, 1, 1], [1, 0, 0, 1], ["explicit", "implied", "explicit, implied", None])
    told = {name: own.value for name, own in found.items() if ":" in name}
    assert told == {
        "shown:explicit": 50, "shown:implied": 0, "removal:explicit": 50, "removal:implied": 100,
    }  # fmt: skip
    assert found["shown:implied"].n == 2 and found["shown:implied"].hi > 50


def test_labels_that_no_judge_knows_are_listed(work, table, monkeypatch):
    seen = predicting(monkeypatch, work, "style", ["monet", "picasso"], ["monet"] * len(table))
    with pytest.raises(UserError, match=r"column artist: cassatt, munch not among the labels of s \(monet, picasso\)"):
        style.measure(seen, table)


def test_cp_is_the_share_of_prompts_whose_similarity_fell(work, table, tmp_path):
    table["clip"] = np.arange(len(table), dtype=float)
    reference = table.assign(clip=[1.0, 1.0, 1.5, 4.0, 0, 5, 7, 7, 0, 0, 0])[::-1]  # another order of rows
    reference.to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "meta.json").write_text("{}")
    columns, metrics = cp.measure(dataclasses.replace(work, reference=tmp_path), table)
    # picasso stays; cassatt is a neighbour of monet; retain/3 has monet's label, and eval is nothing of either
    np.testing.assert_array_equal(columns["cp"], [1, 0, 0, 1, 0, 0, 1, 0, *[np.nan] * 3])
    assert values(metrics) == {"cp": (50, 4), "cp_near": (50, 2), "cp_other": (0, 2)}
    assert metrics["cp_other"].hi == pytest.approx(100 * 3.8415 / 5.8415, abs=0.01)  # Wilson's, of two
    _, metrics = cp.measure(work, table)
    assert (metrics["cp"].value, metrics["cp"].hi) == (0, 0)  # the reference itself, by definition
    _, metrics = cp.measure(
        dataclasses.replace(work, options=work.options | {"clip": None}), table.drop(columns="clip")
    )
    assert metrics == dict.fromkeys(cp.METRICS, "no network (score.clip)")
    with pytest.raises(UserError, match="has no clip of monet/3"):
        reference[reference["clip"] != 4].to_csv(tmp_path / "scores.csv", index=False)
        cp.measure(dataclasses.replace(work, reference=tmp_path), table)
    with pytest.raises(UserError, match="no column clip"):
        reference.drop(columns="clip").to_csv(tmp_path / "scores.csv", index=False)
        cp.measure(dataclasses.replace(work, reference=tmp_path), table)


def describing(monkeypatch, work, prototype, drawn):
    """A descriptor that gives these embeddings: for the concept's pictures, and for the drawn ones."""
    monkeypatch.setattr(judges, "descriptor", lambda path, device: None)
    real = Real(np.array(prototype, float), "", {})
    monkeypatch.setattr(Work, "reference_features", lambda self, *key: real)
    return dataclasses.replace(work, seen={"descriptor": np.array(drawn, float)})


def test_csd_is_relative_to_the_reference(work, table, monkeypatch, tmp_path):
    embeddings = [[1, 0], [0.28, 0.96], [0.6, 0.8], [0.8, 0.6], *[[np.nan] * 2] * 7]
    columns, metrics = csd.measure(describing(monkeypatch, work, [[1, 0], [1, 0]], embeddings), table)
    np.testing.assert_allclose(columns["csd"], [100, 28, 60, 80, *[np.nan] * 7])
    assert metrics["csd_raw"].value == pytest.approx(67)
    assert metrics["csd"].value == pytest.approx(100)  # the reference itself
    assert (metrics["csd"].lo, metrics["csd"].hi) == pytest.approx((100, 100))
    table.assign(csd=[90, 70, 60, 80, *[np.nan] * 7]).to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "meta.json").write_text("{}")
    seeing = describing(monkeypatch, work, [[2, 0], [0, 2]], embeddings)
    columns, metrics = csd.measure(dataclasses.replace(seeing, reference=tmp_path), table)
    np.testing.assert_allclose(columns["csd"][:4], 100 * np.array([1, 1.24, 1.4, 1.4]) / np.sqrt(2), rtol=1e-6)
    assert metrics["csd"].value == pytest.approx(100 * metrics["csd_raw"].value / 75)
    table.assign(csd=0.0).to_csv(tmp_path / "scores.csv", index=False)
    _, metrics = csd.measure(dataclasses.replace(seeing, reference=tmp_path), table)
    assert metrics["csd"] == "the reference's similarity is not above 0"


def test_csd_is_absent_without_descriptor_or_pictures(work, table, monkeypatch):
    lacking = dataclasses.replace(work, options=work.options | {"descriptor": None})
    assert csd.looks(lacking) == {}
    assert csd.measure(lacking, table) == ({}, dict.fromkeys(csd.METRICS, "no descriptor (score.descriptor)"))
    monkeypatch.setattr(judges, "descriptor", lambda path, device: None)
    drawn = describing(monkeypatch, work, [[1, 0]], [[1.0, 0.0]] * len(table))
    _, metrics = csd.measure(dataclasses.replace(drawn, erased=["picasso"]), table)
    assert metrics["csd"] == metrics["csd_raw"] == csd.NO_PROTOTYPE
    assert metrics["csd_near"] == "no neighbour's prompt"
    assert metrics["csd_other"].n == 5  # monet's prompts and retain/3 are not erased now, and have a prototype
    assert metrics["csd_other"].value == pytest.approx(100)  # the reference itself


def test_csd_of_what_must_stay_is_that_to_eval_pictures_of_the_same_artist(work, table, monkeypatch, tmp_path):
    """A concept's own pictures come before those of the eval prompts; a style without pictures has no prototype."""
    for row in range(4):
        Image.new("RGB", (8, 8), (60 * row, 0, 0)).save(tmp_path / f"{row}.png")
    rows = [
        Prompt(0, "p", 0, artist="cassatt", file_name="2.png"),
        Prompt(1, "p", 1, artist="cassatt", file_name="0.png"),
        Prompt(2, "p", 2, artist="monet", file_name="1.png"),
        Prompt(3, "p", 3, artist="munch", file_name="no such.png"),
        Prompt(4, "p", 4, file_name="3.png"),
    ]
    own = {"somewhere": [[0.0, 1.0]], str(tmp_path): [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [9.0, 9.0]]}
    monkeypatch.setattr(judges, "descriptor", lambda path, device: None)
    monkeypatch.setattr(Work, "reference_features", lambda self, folder, *key: Real(np.array(own[str(folder)]), "", {}))
    drawn = np.tile([0.6, 0.8], (len(table), 1))
    mine = dataclasses.replace(
        work, rows=work.rows | {"eval": rows}, eval_pictures=tmp_path, seen={"descriptor": drawn}
    )
    columns, metrics = csd.measure(mine, table)
    cassatt = (0.6 * 0.5 + 0.8) / np.hypot(0.5, 1)
    np.testing.assert_allclose(
        columns["csd"], [*[80.0] * 4, np.nan, *[round(100 * cassatt, 4)] * 2, *[np.nan] * 4], rtol=1e-6
    )
    assert metrics["csd_near"].n == 2 and metrics["csd_near"].value == pytest.approx(100)
    assert metrics["csd_other"] == csd.NO_PROTOTYPE  # munch's file is not there, picasso has none
    told = {"cassatt": {"n_real": 2, "reference_sha": ""}, "monet": {"n_real": 1, "reference_sha": ""}}
    assert metrics["csd_near"].protocol["prototypes"] == told
    before = table.assign(csd=[50.0] * 4 + [np.nan] + [2 * 100 * cassatt, 100 * cassatt] + [np.nan] * 4)
    before.to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "meta.json").write_text("{}")
    monkeypatch.setattr(csd, "by_label", lambda work: {"cassatt": (tmp_path, [0, 2])})
    _, metrics = csd.measure(dataclasses.replace(mine, reference=tmp_path), table)
    assert metrics["csd_near"].value == pytest.approx(100 * 2 / 3, rel=1e-4)
    assert metrics["csd"].value == pytest.approx(160)


def test_clip_averages_erased_and_eval_prompts(work, table, monkeypatch):
    texts = {"p0": [1, 0], "p1": [0, 1], "p2": [0.6, 0.8]}
    monkeypatch.setattr(judges, "clip", lambda name, device: (None, None))
    monkeypatch.setattr(judges, "stacked", lambda batches, network: np.array(list(texts.values()), float))
    seen = {"clip": np.tile([1.0, 0.0], (len(table), 1))}
    columns, metrics = clip.measure(dataclasses.replace(work, seen=seen), table)
    np.testing.assert_allclose(columns["clip"], [100 * texts[p][0] for p in table["prompt"]])
    assert metrics["clip"].value == pytest.approx((100 + 0 + 60 + 100) / 4)
    assert metrics["clip_retain"].value == pytest.approx((100 + 0) / 2)  # rows 9 and 10
    assert metrics["clip_near"].value == pytest.approx((60 + 100) / 2)  # cassatt: rows 5 and 6
    assert metrics["clip_other"].value == pytest.approx((0 + 0) / 2)  # picasso's row 4, munch's row 7


def test_missing_judges_and_sets_leave_metrics_out_with_a_reason(work, table):
    without = work.options | {"judges": {"style": None, "content": None, "unsafe": None}}
    bare = dataclasses.replace(work, options=without, rows={})
    for family in (style, content, fid, kid, kept, shown):
        assert family.looks(bare) == {} if hasattr(family, "looks") else True
        _, metrics = family.measure(bare, table)
        assert metrics.keys() == family.METRICS.keys()
        assert all(isinstance(reason, str) for reason in metrics.values())
    assert "score.judges.style" in kept.measure(bare, table)[1]["ira_other"]
    assert "score.judges.content" in kept.measure(bare, table)[1]["cra"]


def test_a_metric_of_pictures_without_labels_is_absent(work, table, monkeypatch):
    bare = table.assign(**{"class": None})
    seen = predicting(monkeypatch, work, "content", ["boat", "house"], ["boat"] * len(table))
    _, metrics = kept.measure(work, bare.assign(**content.measure(seen, bare)[0]))
    assert metrics["cra"] == "no retain prompt has a class in its column"
    assert metrics["content_target"] == "no erased prompt has a class in its column"


def test_every_family_declares_what_it_measures():
    """The report and the planner read these literals: a wrong key would be a column that is missing without a word."""
    needed = {"label", "unit", "direction", "digits", "rows", "column", "place", "meaning"}
    optional = {"share", "over", "by", "table", "hidden", "of_reference", "names"}
    names = []
    for name in registry.names("metrics"):
        assert isinstance(registry.literal("metrics", name, "VERSION"), int)
        assert set(registry.literal("metrics", name, "NEEDS")) <= set(registry.names("metrics"))
        for metric, about in registry.literal("metrics", name, "METRICS").items():
            assert needed <= about.keys() <= needed | optional, metric
            assert about["direction"] in ("up", "down")
            assert about["rows"] in ("erased", "near", "other", "retain", "eval", "")
            assert about.get("over") in (None, "reference", "base") and about.get("share") in (None, 0, 1)
            assert set(about.get("table", [])) <= {"style", "unsafe", "kept", "attacks"}
            names.append(metric)
    assert len(names) == len(set(names)), "two families measure the same name"
    assert scoring.order().index("clip") < scoring.order().index("cp")


def test_mean_and_its_interval():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = mean(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 400)
    half = 1.96 * values.std() / 20
    assert found.lo == pytest.approx(values.mean() - half, abs=0.03)
    assert found.hi == pytest.approx(values.mean() + half, abs=0.03)
    assert mean(values) == found
