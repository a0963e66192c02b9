"""Scoring with tiny networks, end to end in one process."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lethe.files import images
from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.files.io import write_json
from lethe.measuring import judges, keeping, networks, scoring
from lethe.measuring.work import Work
from lethe.params import registry
from tests import tiny_judges

MEASURED = {
    *("clip", "clip_retain", "cp", "csd", "csd_raw", "fid", "kid"),
    *("shown", "ua", "ira_neighbour", "ira_other", "cra", "content_target"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_pictures):
    folder = tmp_path_factory.mktemp("scoring")
    options = tiny_judges.section(tiny_judges.judges(folder / "judges"))
    with Images(tiny_judges.write_samples(folder / "samples", 1)) as samples:
        yield Work(
            samples,
            tiny_judges.SETS,
            tiny_judges.concepts(tiny_pictures),
            ["monet"],
            None,
            tiny_pictures,
            options,
            torch.device("cpu"),
            cache=folder / "cache",
        )


@pytest.fixture(scope="module")
def scored(work):
    return scoring.score(work)


def test_every_metric_is_measured_or_has_a_reason(scored):
    declared = {name for own in registry.literals("metrics", "METRICS").values() for name in own}
    assert set(scored.metrics) >= MEASURED
    assert set(scored.metrics) | set(scored.absent) == declared
    assert "--originals" in scored.absent["removal_base"]
    assert scored.absent["removal"] == "no picture of the reference shows an erased concept"  # the tiny judge sees none
    metrics = scored.metrics
    for name, own in metrics.items():
        assert own["lo"] <= own["hi"], name
        assert own.keys() - {"warning"} == {"value", "n", "lo", "hi", "unit", "direction", "version", "protocol"}, name
    assert metrics["cp"]["value"] == 0
    assert metrics["csd"]["value"] == pytest.approx(100)
    assert {
        name: metrics[name]["n"] for name in ("clip", "clip_near", "cp_other", "fid", "ira_neighbour", "ira_other")
    } == {
        "clip": 6,
        "clip_near": 2,
        "cp_other": 5,
        "fid": 8,
        "ira_neighbour": 2,
        "ira_other": 5,  # munch, and picasso's prompts: it is not erased
    }


def test_the_table_has_a_row_a_picture(scored):
    table = scored.table
    first = ["set", "case_number", "seed", "file", "prompt", "artist", "class", "category"]
    assert list(table.columns[:8]) == first
    wanted = {"fid", "kid", "clip", "cp", "csd", "shown", "domain_ok", "cross_ok"}
    wanted |= {f"{judge}_{end}" for judge in ("style", "content") for end in ("pred", "prob", "ok")}
    assert set(table.columns[8:]) >= wanted
    assert (table.loc[table["set"] == "picasso", "artist"] == "picasso").all()
    assert table["csd"].notna().sum() == 6


def test_every_metric_tells_how_it_came_about(work, scored):
    drawn = {"sampler": None, "steps": None, "guidance": None, "resolution": 32}
    for name, own in scored.metrics.items():
        assert own["protocol"].items() >= drawn.items(), name
    resizer = {"size": [32, 32], "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    for name in ("clip", "clip_near", "cp", "cmmd"):
        told = json.loads(json.dumps(scored.metrics[name]["protocol"]))
        assert (told["model"], told["resizer"]) == (work.options["clip"], resizer)
    real = work.reference_features(work.eval_pictures, "features", networks.features_network(scored.work))
    told = scored.metrics["fid"]["protocol"]
    assert (told["n_drawn"], told["n_real"], told["reference_sha"]) == (8, 12, real.sha256)
    assert told["mode"] == "custom" and told["features"] == work.options["features"] and "resizer" in told
    assert scored.metrics["kid"]["protocol"]["subsets"] == 3


def test_the_sampler_stands_in_the_samples_own_record(work, tmp_path):
    folder = tiny_judges.write_samples(tmp_path / "samples", 1)
    options = {"sampler": "ddim", "steps": 20, "guidance": 4.0, "resolution": None, "tile": 16}
    write_json(folder / "meta.json", {"recipe": "samples000", "options": options})
    with Images(folder) as samples:
        own = scoring.score(dataclasses.replace(work, images=samples)).metrics["kid"]["protocol"]
    assert own.items() >= {"sampler": "ddim", "steps": 20, "guidance": 4.0, "resolution": 32}.items()


def test_scores_are_those_of_the_networks(work, scored):
    table = scored.table
    of_pictures, of_texts = judges.clip(work.options["clip"], work.device)
    entry = work.images.entries[3]
    cosine = float((of_pictures([work.images.picture(entry)]) * of_texts([entry.prompt])).sum())
    assert table.loc[3, "clip"] == pytest.approx(100 * cosine, abs=1e-3)
    labels, network = judges.classifier(work.options["judges"]["style"], work.device)
    probabilities = network([work.images.picture(entry)])[0][0]
    assert table.loc[3, "style_pred"] == labels[int(probabilities.argmax())]
    assert table.loc[3, "style_prob"] == pytest.approx(float(probabilities.max()), abs=1e-3)
    assert table.loc[3, "shown"] == (table.loc[3, "style_pred"] == "monet")
    drawn, real = networks.features(scored.work)
    assert drawn.shape == (8, 12)
    assert real.features.shape == (12, 12)
    assert scored.metrics["fid"]["value"] > 0


def test_fewer_pictures_than_features_are_warned_of(scored):
    text = "8 drawn and 12 real pictures are too few for 12 features: prefer KID"
    assert scored.metrics["fid"]["warning"] == text
    assert "warning" not in scored.metrics["kid"]


def test_every_picture_is_read_once_and_a_shared_network_runs_once(work, monkeypatch):
    read, forwards = [], []
    real_read = images.Images.read
    monkeypatch.setattr(images.Images, "read", lambda self, entry: read.append(entry.file) or real_read(self, entry))
    model = judges.classifier.__wrapped__  # not cached: a model of its own, to be counted

    def counted(path, device):
        labels, network = model(path, device)
        inner = network.__closure__  # the remembering wrapper's network
        (cell,) = [cell for cell in inner if callable(cell.cell_contents)]
        forward = cell.cell_contents
        cell.cell_contents = lambda batch: forwards.append((path, len(batch))) or forward(batch)
        return labels, network

    made = {}
    monkeypatch.setattr(judges, "classifier", lambda path, device: made.setdefault(path, counted(path, device)))
    judges.features.cache_clear()
    judges.features_or_reason.cache_clear()
    try:
        scoring.score(work)
    finally:
        judges.features.cache_clear()
        judges.features_or_reason.cache_clear()
    assert sorted(read) == sorted(entry.file for entry in work.images.entries)
    assert work.options["features"] == work.options["judges"]["content"]
    for path in work.options["judges"].values():
        assert path is None or sum(count for name, count in forwards if name == path) == len(read)


def test_scoring_again_gives_the_same(work, scored):
    again = scoring.score(dataclasses.replace(work))
    pd.testing.assert_frame_equal(again.table, scored.table)
    assert again.metrics == scored.metrics


def test_real_pictures_are_looked_at_once_for_all_runs(work, scored, monkeypatch):
    def never(batch):
        raise AssertionError("the cache was not asked")

    for name in ("features", "descriptor"):
        found = work.reference_features(work.eval_pictures, name, never)
        assert found.features.shape[0] == 12
    with pytest.raises(AssertionError):
        work.reference_features(work.eval_pictures, "another network", never)
    with pytest.raises(AssertionError):
        trained_again = dataclasses.replace(work, identities={"features": "other weights"})
        trained_again.reference_features(work.eval_pictures, "features", never)


def test_without_clip_all_else_is_measured(work, scored, monkeypatch):
    """Left out on purpose, or because its weights cannot be fetched."""
    without = work.options | {"clip": None}
    found = scoring.score(dataclasses.replace(work, options=without))
    lost = {"clip", "clip_near", "clip_other", "clip_retain", "cp", "cp_near", "cp_other", "cmmd"}
    assert {name: found.absent.get(name) for name in lost} == dict.fromkeys(lost, "no network (score.clip)")
    assert found.metrics == {name: own for name, own in scored.metrics.items() if name not in lost}

    def offline(*_, **__):
        raise OSError("no network at all")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    away = dataclasses.replace(work, options=work.options | {"clip": "ViT-B-16@laion2b_s34b_b88k"})
    found = scoring.score(away)
    assert found.absent["clip"] == "ViT-B-16@laion2b_s34b_b88k: its weights cannot be fetched: no network at all"
    assert set(found.metrics) == set(scored.metrics) - lost


def test_pictures_of_the_same_names_and_sizes_are_looked_at_anew(work, scored, tmp_path):
    """Features are kept by the pictures' bytes, wherever they stand."""
    asked = []

    def never(batch):
        raise AssertionError("the cache was not asked")

    folder = Path(shutil.copytree(work.eval_pictures, tmp_path / "copy"))
    kept = work.reference_features(folder, "features", never)
    first = sorted(folder.glob("*.png"))[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1  # behind the picture's end: as many bytes, the same pixels
    first.write_bytes(content)

    def seen(batch):
        asked.append(len(batch))
        return np.ones((len(batch), 2))

    again = dataclasses.replace(work).reference_features(folder, "features", seen)
    assert sum(asked) == 12 and again.sha256 != kept.sha256


def test_against_another_models_scores(work, scored, tmp_path):
    samples = tiny_judges.write_samples(tmp_path / "other", 2)
    scored.table.drop(columns="prompt").to_csv(tmp_path / "scores.csv", index=False)
    write_json(tmp_path / "meta.json", {"parents": {"samples": {"folder": str(work.images.path.parent)}}})
    with Images(samples) as found:
        mine = scoring.score(
            dataclasses.replace(work, images=found, reference=tmp_path, originals=work.images.path.parent)
        )
    table, metrics = mine.table, mine.metrics
    erased = (table["set"] == "monet").to_numpy()
    fell = table["clip"].to_numpy()[erased] < scored.table["clip"].to_numpy()[erased]
    assert metrics["cp"]["value"] == pytest.approx(100 * fell.mean())
    np.testing.assert_array_equal(table["cp"][erased], fell)
    ratio = table["csd"][erased].mean() / scored.table["csd"][erased].mean()
    assert metrics["csd"]["value"] == pytest.approx(100 * ratio)
    before, after = (one["shown"][erased].sum() for one in (scored.table, table))
    if before:
        # the reference stands in for the dense base too: the same pictures give the same removal
        assert metrics["removal"]["value"] == pytest.approx(100 * (1 - after / before))
        assert metrics["removal_base"]["value"] == pytest.approx(metrics["removal"]["value"])
    else:
        assert "no picture of the reference shows" in mine.absent["removal"]


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


def test_an_attack_may_draw_fewer_prompts(work, tmp_path):
    few = {"monet": tiny_judges.SETS["monet"][::3]}
    folder = tiny_judges.write_samples(tmp_path / "attacked", 3, few)
    with Images(folder) as samples:
        attacked = dataclasses.replace(work, images=samples)
        with pytest.raises(UserError, match="first difference"):
            scoring.table_of(attacked)
        write_json(folder / "meta.json", {"recipe": "attack0000", "stage": "attack"})
        found = scoring.score(attacked)
    assert found.table["case_number"].tolist() == [0, 3]
    assert found.metrics["ua"]["n"] == 2
    assert found.absent["fid"] == "no prompt set eval" and "clip_retain" in found.absent


def test_objects_and_styles_are_judged_each_by_its_kind(work):
    concepts = {
        "monet": work.concepts["monet"],
        "picasso": {"kind": "object", "style": "house", "neighbours": ["boat"], "pictures": None},
    }
    found = scoring.score(dataclasses.replace(work, concepts=concepts, erased=["picasso"]))
    table, metrics = found.table, found.metrics
    own = table["set"] == "picasso"
    np.testing.assert_array_equal(table["shown"][own], table["content_pred"][own] == "house")
    assert table.loc[own, "cross_ok"].isna().all()  # its rows have no artist
    assert "has an artist in its column" in found.absent["content_target"]
    kept = table["set"].isin(["retain", "monet"])
    np.testing.assert_array_equal(table["domain_ok"][kept], table["content_ok"][kept])
    np.testing.assert_array_equal(table["cross_ok"][kept], table["style_ok"][kept])
    assert metrics["ira_neighbour"]["n"] == 10 and "ira_other" in found.absent  # all others are boats


def test_what_shows_an_erased_object_need_not_stay(work):
    concepts = {"monet": {"kind": "object", "style": "boat", "neighbours": [], "pictures": None}}
    rows = {name: rows for name, rows in tiny_judges.SETS.items() if name != "picasso"}
    table = scoring.table_of(dataclasses.replace(work, concepts=work.concepts))
    kept = keeping.is_retained(table, work.concepts | concepts, ["monet"])
    assert set(table["set"][kept]) == {"picasso"} and set(rows) == {"monet", "retain", "eval"}
