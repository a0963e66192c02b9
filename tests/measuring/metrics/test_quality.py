"""CMMD, drift, change and LPIPS on pictures of tiny networks: this model, the distilled one and the dense base."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.files.io import write_json
from lethe.measuring import judges, looking, mmd, pairing, scoring
from lethe.measuring.metrics import change, cmmd, drift, fid, lpips
from lethe.measuring.work import Work
from tests import tiny_judges
from tests.measuring.test_perceptual import write as write_lpips

CPU = torch.device("cpu")


def metrics_folder(folder, samples):
    """What stage score leaves of another model, as far as drift reads it."""
    folder.mkdir(parents=True)
    write_json(folder / "meta.json", {"recipe": folder.name, "parents": {"samples": {"folder": str(samples)}}})
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory, judge_folder, tiny_pictures):
    """A work with a reference and originals, and the folders."""
    folder = tmp_path_factory.mktemp("quality")
    drawn = [tiny_judges.write_samples(folder / str(seed), seed, recipe=f"samples{seed}") for seed in (1, 2, 3)]
    with Images(drawn[0]) as images:
        yield Work(
            images,
            tiny_judges.SETS,
            tiny_judges.concepts(tiny_pictures),
            ["monet"],
            metrics_folder(folder / "distill", drawn[1]),
            tiny_pictures,
            tiny_judges.section(judge_folder),
            CPU,
            originals=drawn[2],
            identities={"samples": "samples1", "originals": "samples3"},
        )


def measured(family, work):
    """One family, after the pass that it wants."""
    table = scoring.table_of(work)
    seen = looking.look(work.images, family.looks(work) if hasattr(family, "looks") else {})
    return *family.measure(dataclasses.replace(work, seen=seen.looks), table), table


def outputs(network, folder, keep=lambda entry: True):
    """A network on some pictures of a samples folder, one by one."""
    with Images(folder) as images:
        return np.concatenate([np.asarray(network([images.picture(e)]), float) for e in images.entries if keep(e)])


def test_cmmd_is_the_formula_on_clip_embeddings(ready, tiny_pictures):
    columns, metrics, table = measured(cmmd, ready)
    of_pictures, _ = judges.clip(ready.options["clip"], CPU)
    drawn = outputs(of_pictures, ready.images.path.parent, lambda entry: entry.set == "eval")
    real = np.concatenate([np.asarray(of_pictures(batch), float) for batch in scoring_batches(tiny_pictures)])
    drawn, real = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (drawn, real))

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * 10**2))

    own = [kernel(a, b) for i, a in enumerate(drawn) for j, b in enumerate(drawn) if i != j]
    within = [kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j]
    cross = [kernel(a, b) for a in drawn for b in real]
    wanted = 1000 * (np.mean(own) + np.mean(within) - 2 * np.mean(cross))
    found = metrics["cmmd"]
    assert found.value == pytest.approx(wanted, rel=1e-4)
    assert found.n == 8
    assert found.lo < found.value < found.hi
    shown = (table["set"] == "eval").to_numpy()
    assert columns["cmmd"][shown].mean() == pytest.approx(found.value)
    assert np.isnan(columns["cmmd"][~shown]).all()
    assert found.protocol["n_real"] == 12


def scoring_batches(folder):
    from PIL import Image

    return [[Image.open(path).convert("RGB")] for path in sorted(folder.glob("*.png"))]


def test_cmmd_without_eval_prompts_is_absent(ready):
    _, metrics = cmmd.measure(dataclasses.replace(ready, rows={"monet": tiny_judges.SETS["monet"]}), None)
    assert metrics == {"cmmd": "no prompt set eval"}


def kid_of_pairs(a, b):
    """1000 * the mean over i != j of k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i), k cubic."""
    k = lambda x, y: (x @ y / len(x) + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if i != j]
    return 1000 * np.mean([k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i, j in pairs])


def test_drift_is_the_distances_to_the_other_models_pictures(ready):
    columns, metrics, table = measured(drift, ready)
    assert set(metrics) == set(drift.METRICS)
    features, (of_pictures, _) = (
        judges.features(ready.options["features"], CPU),
        judges.clip(ready.options["clip"], CPU),
    )
    rows = {"": (table["set"] == "eval").to_numpy(), "_retain": ready.is_retained(table)}
    ours = ready.images.path.parent
    for end, theirs in (("", ready.distilled.samples), ("_base", ready.originals)):
        for kind, own in rows.items():
            a, b = (outputs(features, folder)[own] for folder in (ours, theirs))
            assert metrics[f"fid_drift{end}{kind}"].value == pytest.approx(fid.frechet(a, b), rel=1e-3)
            assert columns[f"fid_drift{end}"][own].mean() == pytest.approx(metrics[f"fid_drift{end}{kind}"].value)
            assert metrics[f"kid_drift{end}{kind}"].value == pytest.approx(kid_of_pairs(a, b), rel=1e-3)
            assert columns[f"kid_drift{end}"][own].mean() == pytest.approx(metrics[f"kid_drift{end}{kind}"].value)
            a, b = (cmmd.unit(outputs(of_pictures, folder)[own]) for folder in (ours, theirs))
            wanted = 1000 * mmd.paired(a, b, mmd.gaussian(10))[0]
            assert metrics[f"cmmd_drift{end}{kind}"].value == pytest.approx(wanted, rel=1e-3)
    assert metrics["fid_drift"].value != metrics["fid_drift_base"].value
    assert metrics["fid_drift"].n == 8
    assert metrics["fid_drift_retain"].n == rows["_retain"].sum() == 7
    assert "too few" in metrics["fid_drift"].warning
    left = ~(rows[""] | rows["_retain"])
    assert left.any()
    assert np.isnan(columns["fid_drift"][left]).all()


def test_a_comparison_with_another_model_tells_its_pictures(ready, tmp_path, monkeypatch):
    """Which network, how many pictures of the other side, and the hash of their bytes."""
    folder = write_lpips(tmp_path / "lpips", "alex", monkeypatch)
    ready = dataclasses.replace(ready, options=ready.options | {"lpips": str(folder)})
    found = {name: own for family in (drift, change, lpips) for name, own in measured(family, ready)[1].items()}
    table = scoring.table_of(ready)
    rows = {"eval": (table["set"] == "eval").to_numpy(), "kept": ready.is_retained(table)}
    whose = {"": ready.distilled.samples, "_base": ready.originals}
    for name, end, kind in (
        ("fid_drift", "", "eval"),
        ("fid_drift_base_retain", "_base", "kept"),
        ("cmmd_drift_retain", "", "kept"),
        ("change_eval", "", "eval"),
        ("change_base", "_base", "kept"),
        ("lpips", "", "kept"),
    ):
        told, hashed = found[name].protocol, hashlib.sha256()
        with Images(whose[end]) as other:
            for entry, wanted in zip(other.entries, rows[kind], strict=True):
                if wanted:
                    hashed.update(hashlib.sha256(other.read(entry)).digest())
        assert told["reference_sha"] == hashed.hexdigest(), name
        assert told["n_drawn"] == told["n_reference"] == rows[kind].sum(), name
    assert found["fid_drift"].protocol["features"] == ready.options["features"]
    assert "model" not in found["fid_drift"].protocol and "features" not in found["cmmd_drift"].protocol
    assert found["cmmd_drift"].protocol["model"] == ready.options["clip"]


def test_equal_pictures_have_not_drifted_nor_changed(ready, tmp_path, monkeypatch):
    same = metrics_folder(tmp_path / "same", ready.images.path.parent)
    work = dataclasses.replace(ready, reference=same, originals=None)
    columns, metrics, _ = measured(drift, work)
    for name in (f"{kind}_drift{end}" for kind in ("fid", "kid", "cmmd") for end in ("", "_retain")):
        assert metrics[name].value == pytest.approx(0, abs=1e-4)
        assert metrics[name].hi == pytest.approx(0, abs=1e-3)
    assert metrics["fid_drift_base"] == "these are the dense base's pictures, or --originals was not given"
    assert set(columns) == {"fid_drift", "kid_drift", "cmmd_drift"}
    columns, metrics, _ = measured(change, work)
    np.testing.assert_allclose(columns["change"], 0, atol=1e-3)
    folder = write_lpips(tmp_path / "lpips", "alex", monkeypatch)
    columns, metrics, _ = measured(lpips, dataclasses.replace(work, options=work.options | {"lpips": str(folder)}))
    np.testing.assert_array_equal(columns["lpips"], 0)


def test_joint_influence_is_the_derivative_by_a_pairs_weight():
    """A pair of weight 1 + e, all weights scaled back to sum n, against central differences."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = 0.7 * x + rng.normal(0.3, 1, size=(60, 4))
    column, found = drift.fid_drift(x, y)

    def weighted(w):
        w = w / w.sum()
        sides = [(w @ z, np.sqrt(w * 60 / 59)[:, None] * (z - w @ z)) for z in (x, y)]
        return fid._distance(*sides)

    assert column.mean() == pytest.approx(found.value) == pytest.approx(fid.frechet(x, y))
    for i in (0, 11):
        step = np.zeros(60)
        step[i] = 1e-4
        derivative = (weighted(1 + step) - weighted(1 - step)) / 2e-4
        assert (column[i] - column.mean()) / 60 == pytest.approx(derivative, rel=1e-3)


def test_interval_of_drift_is_that_of_resampled_pairs():
    """Pairs stay together, so that what both pictures of a prompt share does not widen it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = x + rng.normal(0.4, 0.5, size=(300, 3))
    _, found = drift.fid_drift(x, y)
    again = [fid.frechet(x[index], y[index]) for index in rng.integers(0, 300, (400, 300))]
    assert found.hi - found.lo == pytest.approx(np.quantile(again, 0.975) - np.quantile(again, 0.025), rel=0.2)


def test_change_is_one_minus_the_cosine_of_features(ready):
    columns, metrics, table = measured(change, ready)
    network = judges.features(ready.options["features"], CPU)
    for end, theirs in (("", ready.distilled.samples), ("_base", ready.originals)):
        a, b = (outputs(network, folder) for folder in (ready.images.path.parent, theirs))
        wanted = 100 * (1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        np.testing.assert_allclose(columns[f"change{end}"], wanted, atol=1e-3)
    assert metrics["change_target"].value == pytest.approx(columns["change"][(table["set"] == "monet")].mean())
    assert (metrics["change"].n, metrics["change_eval"].n, metrics["change_target"].n) == (7, 8, 6)


def test_change_of_what_the_network_does_not_see():
    ours = np.array([[0.0, 0], [0, 0], [1, 0], [3, 4], [1, 0]])
    theirs = np.array([[0.0, 0], [1, 0], [0, 2], [6, 8], [-2, 0]])
    np.testing.assert_allclose(change.change(ours, theirs), [0, 100, 100, 0, 200], atol=1e-12)


def test_lpips_is_of_the_two_pictures_of_a_prompt(ready, tmp_path, monkeypatch):
    from lethe.measuring import perceptual

    folder = write_lpips(tmp_path / "lpips", "alex", monkeypatch)
    work = dataclasses.replace(ready, options=ready.options | {"lpips": str(folder)})
    columns, metrics, table = measured(lpips, work)
    assert set(metrics) == set(lpips.METRICS)
    run = perceptual.lpips(str(folder), CPU)
    with Images(ready.images.path.parent) as ours, Images(ready.originals) as theirs:
        for row in (0, 9, 21):
            one, other = ours.picture(ours.entries[row]), theirs.picture(theirs.entries[row])
            assert columns["lpips_base"][row] == pytest.approx(float(run([one], [other])[0]), rel=1e-4)
    assert metrics["lpips_base_target"].value == pytest.approx(columns["lpips_base"][table["set"] == "monet"].mean())
    assert (columns["lpips"] > 0).all()
    assert not np.allclose(columns["lpips"], columns["lpips_base"])


def test_what_there_is_nothing_to_compare_with_is_absent_and_says_why(ready):
    alone = dataclasses.replace(ready, reference=None, originals=None)
    itself = dataclasses.replace(
        ready, originals=ready.images.path.parent, identities={"samples": "a", "originals": "a"}
    )
    for family in (drift, change):
        columns, metrics, _ = measured(family, alone)
        assert columns == {}
        assert family.looks(alone) == {}
        assert set(metrics) == set(family.METRICS)
        assert "--reference is no metrics folder" in metrics[next(iter(family.METRICS))]
    _, metrics, _ = measured(drift, itself)
    assert metrics["fid_drift_base"] == "these are the dense base's pictures"
    without = dataclasses.replace(ready, options=ready.options | {"features": None})
    _, metrics, _ = measured(drift, without)
    assert metrics["fid_drift"] == "no features (score.features)"
    assert metrics["cmmd_drift"].value > 0
    assert measured(lpips, ready)[1] == dict.fromkeys(lpips.METRICS, "no weights (score.lpips)")


def test_all_of_it_comes_out_of_one_pass(ready, tmp_path, monkeypatch):
    """scoring.score with every network there: a row a picture, every metric, and how it came about."""
    with Images(ready.distilled.samples) as images:
        first = scoring.score(dataclasses.replace(ready, images=images, reference=None, originals=None))
    first.table.to_csv(ready.reference / "scores.csv", index=False)
    folder = write_lpips(tmp_path / "lpips", "alex", monkeypatch)
    work = dataclasses.replace(ready, options=ready.options | {"lpips": str(folder)}, cache=tmp_path / "cache")
    found = scoring.score(work)
    names = {*cmmd.METRICS, *drift.METRICS, *change.METRICS, *lpips.METRICS}
    assert names <= set(found.metrics)
    assert not names & set(first.absent) - {*drift.METRICS, *change.METRICS, *lpips.METRICS}
    for name in names:
        own = found.metrics[name]
        assert own["lo"] <= own["value"] <= own["hi"], name
        assert own["protocol"], name
    assert found.metrics["lpips"]["protocol"]["lpips"]["network"] == "alex"
    assert found.metrics["fid_drift"]["protocol"]["mode"] == "custom"
    again = scoring.score(work)  # from the cache
    assert again.metrics == found.metrics
    for family in (cmmd, drift, change, lpips):
        for name, about in family.METRICS.items():
            rows = {"eval": found.table["set"] == "eval", "erased": found.table["set"] == "monet"}
            rows |= {"retain": ready.is_retained(found.table)}
            column = found.table[about["column"]][rows[about["rows"]]]
            assert column.mean() == pytest.approx(found.metrics[name]["value"], abs=1e-4), name  # as the report has it


def test_an_attacks_few_pictures_find_their_twins(ready):
    entries = [entry for entry in ready.images.entries if entry.case_number == 2]
    rows = pairing.twins(ready.originals, entries)
    with Images(ready.originals) as theirs:
        found = [(theirs.entries[row].set, theirs.entries[row].case_number) for row in rows]
    assert found == [(entry.set, entry.case_number) for entry in entries]


@pytest.mark.parametrize("changed", [{"evaluation_seed": 77}, {"prompt": "else"}, {"case_number": 999}])
def test_other_prompts_or_seeds_of_the_other_model_are_refused(ready, changed):
    entry = dataclasses.replace(ready.images.entries[3], **changed)
    with pytest.raises(UserError, match=r"has no picture of monet/\d+ with this prompt and seed \d+"):
        pairing.twins(ready.originals, [entry])
