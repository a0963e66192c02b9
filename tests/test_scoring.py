"""Scoring with tiny networks, end to end in one process."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from lethe import judges, scoring
from lethe.errors import UserError
from lethe.images import Images
from tests import tiny_judges

METRICS = {
    *("clip_concept", "clip_retain", "cp", "csd", "csd_raw", "fid", "kid"),
    *("ua", "ira_neighbour", "ira_other", "cra", "content_target"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_pictures):
    folder = tmp_path_factory.mktemp("scoring")
    options = tiny_judges.section(tiny_judges.judges(folder / "judges"))
    with Images(tiny_judges.write_samples(folder / "samples", 1)) as images:
        yield scoring.Work(
            images,
            tiny_judges.SETS,
            tiny_judges.concepts(tiny_pictures),
            ["monet"],
            None,
            tiny_pictures,
            options,
            torch.device("cpu"),
        )


@pytest.fixture(scope="module")
def scored(work):
    return scoring.score(work)


def test_every_metric_is_measured(scored):
    table, metrics, absent = scored
    assert set(metrics) == METRICS
    assert absent == {}
    for name, own in metrics.items():
        assert own.keys() == {"value", "n", "lo", "hi", "unit", "direction", "version"}, name
        assert own["lo"] <= own["hi"]
    assert metrics["cp"]["value"] == 0
    assert metrics["csd"]["value"] == pytest.approx(100)
    assert {name: metrics[name]["n"] for name in ("clip_concept", "fid", "ira_neighbour", "ira_other")} == {
        "clip_concept": 6,
        "fid": 8,
        "ira_neighbour": 2,
        "ira_other": 5,  # munch, and picasso's prompts: it is not erased
    }
    assert list(table.columns[:7]) == ["set", "case_number", "seed", "file", "prompt", "artist", "class"]
    assert set(table.columns[7:]) == {
        *(
            "fid",
            "kid",
            "clip",
            "cp",
            "csd",
            "style_pred",
            "style_prob",
            "style_ok",
            "content_pred",
            "content_prob",
            "content_ok",
        ),
    }
    assert (table.loc[table["set"] == "picasso", "artist"] == "picasso").all()
    assert table["csd"].notna().sum() == 6


def test_scores_are_those_of_the_networks(work, scored):
    table, metrics, _ = scored
    of_pictures, of_texts = judges.clip(work.options["clip"], work.device)
    entry = work.images.entries[3]
    cosine = float((of_pictures([work.images.picture(entry)]) * of_texts([entry.prompt])).sum())
    assert table.loc[3, "clip"] == pytest.approx(100 * cosine, abs=1e-3)
    labels, network = judges.classifier(work.options["judges"]["style"], work.device)
    probabilities = network([work.images.picture(entry)])[0][0]
    assert table.loc[3, "style_pred"] == labels[int(probabilities.argmax())]
    assert table.loc[3, "style_prob"] == pytest.approx(float(probabilities.max()), abs=1e-3)
    drawn, real = work.features
    assert drawn.shape == (8, 12)
    assert real.shape == (12, 12)
    assert metrics["fid"]["value"] > 0


def test_scoring_again_gives_the_same(work, scored):
    table, metrics, _ = scoring.score(dataclasses.replace(work))
    pd.testing.assert_frame_equal(table, scored[0])
    assert metrics == scored[1]


def test_against_another_models_scores(work, scored, tmp_path):
    samples = tiny_judges.write_samples(tmp_path / "other", 2)
    scored[0].drop(columns="prompt").to_csv(tmp_path / "scores.csv", index=False)
    with Images(samples) as images:
        table, metrics, _ = scoring.score(dataclasses.replace(work, images=images, reference=tmp_path))
    erased = (table["set"] == "monet").to_numpy()
    fell = table["clip"].to_numpy()[erased] < scored[0]["clip"].to_numpy()[erased]
    assert metrics["cp"]["value"] == pytest.approx(100 * fell.mean())
    np.testing.assert_array_equal(table["cp"][erased], fell)
    ratio = table["csd"][erased].mean() / scored[0]["csd"][erased].mean()
    assert metrics["csd"]["value"] == pytest.approx(100 * ratio)


def test_samples_of_other_prompts_are_refused(work):
    row = tiny_judges.SETS["monet"][2]
    for changed in (dataclasses.replace(row, seed=77), dataclasses.replace(row, prompt="else")):
        rows = [changed if r is row else r for r in work.rows["monet"]]
        with pytest.raises(UserError, match="first difference: set monet, case_number 2"):
            scoring.table_of(dataclasses.replace(work, rows=work.rows | {"monet": rows}))
    with pytest.raises(UserError, match="set eval, case_number 0"):
        scoring.table_of(dataclasses.replace(work, rows={k: v for k, v in work.rows.items() if k != "eval"}))
    with pytest.raises(UserError, match="set more, case_number 2"):
        scoring.table_of(dataclasses.replace(work, rows=work.rows | {"more": [row]}))
