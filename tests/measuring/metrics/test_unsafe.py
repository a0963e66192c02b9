"""The unsafe family, with a detector that goes by brightness, and with a tiny classifier."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
import torch

from lethe.files.images import Images
from lethe.measuring import detections, looking, scoring
from lethe.measuring.conventions import LABELS, THRESHOLDS
from lethe.measuring.detections import Detector
from lethe.measuring.metrics import shown, unsafe
from lethe.measuring.work import Work
from lethe.texts.rows import Prompt
from tests import tiny_judges

KNOWN = ["FACE_FEMALE", "FEET_EXPOSED", "FEMALE_BREAST_EXPOSED"]
SETS = {
    "nudity": [
        Prompt(i, f"a person {i}", i, category="sexual, hate" if i == 0 else ("sexual" if i % 2 else "violence"))
        for i in range(12)
    ],
    "spared": [Prompt(i, f"a statue {i}", 50 + i) for i in range(4)],
    "retain": [Prompt(i, f"a boat {i}", 100 + i) for i in range(8)],
    "eval": [Prompt(i, f"a sun {i}", 200 + i) for i in range(6)],
}
CONCEPTS = {
    "nudity": {"kind": "unsafe", "style": None, "neighbours": [], "pictures": None},
    "spared": {"kind": "unsafe", "style": "FEET_EXPOSED", "neighbours": [], "pictures": None},
}


def by_brightness(batch):
    """A face everywhere, feet scored by the mean of the pixels, a breast where it is bright."""
    lists = []
    for picture in batch:
        mean = float(np.asarray(picture).mean()) / 255
        own = [("FACE_FEMALE", 0.99), ("FEET_EXPOSED", mean)] + ([("FEMALE_BREAST_EXPOSED", 0.8)] if mean > 0.6 else [])
        lists.append([{"label": label, "score": score, "box": [1, 2, 3, 4]} for label, score in own])
    return detections.of_lists(lists, KNOWN)


@pytest.fixture
def work(tmp_path, monkeypatch, options, tiny_pictures):
    found = Detector(KNOWN, by_brightness, {"detector": "brightness", "version": "1"})
    monkeypatch.setattr(unsafe.detectors, "detector", lambda name, device: found)
    values = options | {"judges": options["judges"] | {"unsafe": "nudenet"}}
    values |= {"unsafe": {"labels": "exposed9", "threshold": 0.5}}
    with Images(tiny_judges.write_samples(tmp_path / "samples", 1, SETS)) as images:
        yield Work(
            images,
            SETS,
            CONCEPTS,
            ["nudity"],
            None,
            tiny_pictures,
            values,
            torch.device("cpu"),
            cache=tmp_path / "cache",
        )


def looked(work):
    """The work with what its pictures look like, and the table before any metric."""
    return dataclasses.replace(work, seen=looking.look(work.images, unsafe.looks(work)).looks), scoring.table_of(work)


def measured(work):
    work, table = looked(work)
    columns, metrics = unsafe.measure(work, table)
    return work, table.assign(**columns), metrics


def read(text):
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])


def test_columns_follow_the_convention_that_counts(work):
    _, table, metrics = measured(work)
    mean = np.array([np.asarray(work.images.picture(entry)).mean() / 255 for entry in work.images.entries])
    found = mean > 0.5
    concept = table["set"].isin(["nudity", "spared"]).to_numpy()
    assert 0 < found[concept].sum() < concept.sum()
    np.testing.assert_array_equal(table["unsafe_shown"][concept], found[concept])
    assert table["unsafe_shown"][~concept].isna().all()
    np.testing.assert_array_equal(table["unsafe_found"], found)
    assert set(table["unsafe_pred"]) == {"FACE_FEMALE"} and (table["unsafe_prob"] == 0.99).all()
    kept = table["set"].isin(["retain", "spared"]).to_numpy()
    assert metrics["unsafe_kept"].value == pytest.approx(100 * found[kept].mean()) and metrics["unsafe_kept"].n == 12


def test_a_spared_concept_is_judged_by_its_own_label(work):
    values = work.options | {"unsafe": {"labels": "own", "threshold": 0.2}}
    _, table, metrics = measured(dataclasses.replace(work, options=values))
    assert table["unsafe_shown"][table["set"] == "nudity"].isna().all()  # it has no label of its own
    assert table["unsafe_shown"][table["set"] == "spared"].notna().all()
    assert metrics["unsafe_kept"].startswith("nothing unsafe erased")


def test_detections_are_kept_whole(work):
    work, table, _ = measured(work)
    raw = read(unsafe.files(work, table)["detections.csv"])
    assert list(raw.columns) == ["set", "case_number", "label", "score", "x", "y", "w", "h"]
    faces = raw.loc[raw["label"] == "FACE_FEMALE", ["set", "case_number"]]
    np.testing.assert_array_equal(faces, table[["set", "case_number"]])
    feet = raw[raw["label"] == "FEET_EXPOSED"]
    assert len(feet) == len(table) and feet["score"].between(0, 1).all() and (feet["w"] == 3).all()


def test_every_convention_is_a_reading_of_the_kept_detections(work):
    work, table, _ = measured(work)
    files = unsafe.files(work, table)
    raw, made = read(files["detections.csv"]), read(files["unsafe_conventions.csv"])
    assert set(made["set"]) == {"nudity", "retain", "eval"}
    assert set(made.loc[made["set"] == "nudity", "category"].dropna()) == {"sexual", "violence", "hate"}
    assert made["counts"].sum() == len(made) / (len(LABELS) * len(THRESHOLDS))
    assert set(made.loc[made["counts"] == 1, "labels"]) == {"exposed9"}
    assert set(made.loc[made["counts"] == 1, "who"]) == {"ConceptPrune, 2412.15341, UnlearnDiffAtk"}
    for row in made.to_dict("records"):
        labels = KNOWN if row["labels"] == "all" else LABELS[row["labels"]]
        own = raw[raw["label"].isin(labels) & (raw["score"] > float(row["threshold"])) & (raw["set"] == row["set"])]
        asked = [r.case_number for r in SETS[row["set"]] if pd.isna(row["category"]) or row["category"] in r.category]
        shows = own["case_number"][own["case_number"].isin(asked)].nunique()
        assert (row["after"], row["n"]) == (shows, len(asked)), row
        assert row["share"] == pytest.approx(100 * shows / len(asked), abs=1e-3)
        assert row["share_lo"] <= row["share"] <= row["share_hi"]
        assert row["before"] == shows and (pd.isna(row["removal"]) or row["removal"] == 0)  # it is its own reference


def test_removal_is_against_the_references_detections(work, tmp_path):
    before_work, before, _ = measured(work)
    reference = tmp_path / "reference"
    reference.mkdir()
    for name, text in unsafe.files(before_work, before).items():
        (reference / name).write_text(text)
    samples = tiny_judges.write_samples(tmp_path / "other", 2, SETS)
    with Images(samples) as images:
        after_work, after, _ = measured(dataclasses.replace(work, images=images, reference=reference))
        made = read(unsafe.files(after_work, after)["unsafe_conventions.csv"])
    row = made[(made["counts"] == 1) & (made["set"] == "nudity") & made["category"].isna()].iloc[0]
    was, now = (table.loc[table["set"] == "nudity", "unsafe_shown"] for table in (before, after))
    assert (row["before"], row["after"]) == (was.sum(), now.sum())
    assert row["removal"] == pytest.approx(100 * (1 - now.sum() / was.sum()), abs=1e-3)
    assert row["removal_lo"] <= row["removal"] <= row["removal_hi"]


def test_a_reference_without_detections_leaves_before_empty(work, tmp_path):
    work, table, _ = measured(dataclasses.replace(work, reference=tmp_path))
    made = read(unsafe.files(work, table)["unsafe_conventions.csv"])
    assert made["before"].isna().all() and made["removal"].isna().all() and made["after"].notna().all()


def test_the_dense_bases_pictures_are_read_by_the_same_convention(work, tmp_path):
    samples = tiny_judges.write_samples(tmp_path / "dense", 3, SETS)
    work, table, _ = measured(dataclasses.replace(work, originals=samples))
    with Images(samples) as images:
        dense = np.array(
            [np.asarray(images.picture(e)).mean() / 255 > 0.5 for e in images.entries if e.set == "nudity"]
        )
    _, metrics = shown.measure(work, table)
    after = table.loc[table["set"] == "nudity", "unsafe_shown"]
    assert metrics["removal_base"].value == pytest.approx(100 * (1 - after.sum() / dense.sum()))
    assert metrics["shown"].value == pytest.approx(100 * after.mean())
    assert metrics["shown:violence"].n == 5 and metrics["shown:sexual"].n == 7


def test_without_its_environment_nudenet_is_a_reason_and_no_number(work):
    why, none = "NudeNet is not set up: run make nudenet", work.options["judges"] | {"unsafe": None}
    lacking = {"judges.unsafe": why}
    work, table, metrics = measured(dataclasses.replace(work, options=work.options | {"judges": none}, lacking=lacking))
    assert metrics == {"unsafe_kept": why}
    assert unsafe.files(work, table) == {} and unsafe.protocol(work) == {} and "unsafe_shown" not in table
    _, found = shown.measure(work, table)
    assert set(found.values()) == {why}


def test_without_a_judge_or_an_unsafe_concept_there_is_a_reason(work):
    none = dataclasses.replace(work, options=work.options | {"judges": work.options["judges"] | {"unsafe": None}})
    assert measured(none)[2] == {"unsafe_kept": "no judge of the unsafe (score.judges.unsafe)"}
    monet = {"monet": {"kind": "style", "style": "monet", "neighbours": [], "pictures": None}}
    other = dataclasses.replace(work, concepts=monet, erased=["monet"])
    assert unsafe.looks(other) == {} and measured(other)[2] == {"unsafe_kept": "no concept of kind unsafe"}


def test_with_a_classifier_the_highest_label_counts_end_to_end(tmp_path, options, tiny_pictures):
    judge = tiny_judges.resnet(tmp_path / "emblem", ["none", "hazard"], 4)
    sets = {"hazard": SETS["nudity"], "retain": SETS["retain"], "eval": SETS["eval"]}
    concepts = {"hazard": {"kind": "unsafe", "style": "hazard", "neighbours": [], "pictures": None}}
    values = options | {"judges": options["judges"] | {"unsafe": str(judge)}}
    samples = tiny_judges.write_samples(tmp_path / "samples", 1, sets)
    with Images(samples) as images:
        work = Work(
            images,
            sets,
            concepts,
            ["hazard"],
            None,
            tiny_pictures,
            values,
            torch.device("cpu"),
            cache=tmp_path / "cache",
        )
        found = scoring.score(work)
        probabilities = unsafe.detectors.detector(str(judge), work.device).network(
            list(map(images.picture, images.entries))
        )
    hazard = np.where(probabilities[:, 0, 0] == 1, 1.0, 0.0)
    own = (found.table["set"] == "hazard").to_numpy()
    np.testing.assert_array_equal(found.table["shown"][own], hazard[own])
    assert found.metrics["shown"]["value"] == pytest.approx(100 * hazard[own].mean())
    assert found.metrics["shown"]["protocol"]["convention"] == {"labels": "own", "threshold": None}
    assert set(found.files) == {"detections.csv", "unsafe_conventions.csv"}
    assert len(read(found.files["detections.csv"])) == 2 * len(found.table)
    made = read(found.files["unsafe_conventions.csv"])
    assert list(dict.fromkeys(made["threshold"])) == ["highest", "0.2", "0.5", "0.6", "0.75"]
