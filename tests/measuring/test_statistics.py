"""Statistics in the place of real pictures: FID by the same formula, all else not run, and files that do not fit."""

import dataclasses
import zipfile

import numpy as np
import pytest
import torch

from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.measuring import evaluation, inception, judges, statistics
from lethe.measuring.metrics import cmmd, fid, kid
from lethe.measuring.work import Work
from lethe.report import remarks
from tests import tiny_judges

MODE = "clean"


@pytest.fixture
def narrow(monkeypatch):
    """Inception's features are 4 wide, and those of a picture its mean colours with something of its place."""
    monkeypatch.setattr(inception, "WIDTH", 4)


def saved(path, features: np.ndarray, **more):
    own = {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}
    np.savez(path, **(own | more))
    return path


def pixels(batch) -> torch.Tensor:
    arrays = [np.asarray(picture, float) for picture in batch]
    return torch.tensor([[*array.mean((0, 1)), array[0, 0, 0]] for array in arrays])


def test_the_distance_is_that_to_the_pictures_behind_it(narrow, tmp_path):
    source = np.random.default_rng(0)
    real, drawn = source.normal(size=(50, 4)), source.normal(1, 2, size=(30, 4))
    found = statistics.read(saved(tmp_path / "mine.npz", real), MODE)
    mean, root = found.factor
    assert np.allclose(mean, real.mean(0)) and np.allclose(root.T @ root, np.cov(real, rowvar=False))
    value, shares = fid._with_influence(drawn, found.factor)
    wanted, influence = fid.distance_and_influence(drawn, real)
    assert value == pytest.approx(wanted, rel=1e-9) and np.allclose(shares, influence)
    assert found.doubts == "mine.npz does not tell how many pictures it is of, nor the mode that they were resized in"


def test_fid_alone_is_measured_and_says_what_is_not_known(narrow, tmp_path, monkeypatch):
    samples = tiny_judges.write_samples(tmp_path / "samples", 1)
    real = np.random.default_rng(1).uniform(0, 255, (40, 4))
    found = statistics.read(saved(tmp_path / "coco_clean_custom_na.npz", real), MODE)
    monkeypatch.setattr(judges, "features_or_reason", lambda *_: pixels)
    options = {"features": MODE, "features_weights": None, "clip": None, "kid_subsets": 5}
    with Images(samples) as images:
        work = Work(images, tiny_judges.SETS, {}, [], None, None, options, torch.device("cpu"), statistics=found)
        looked = fid.looks(work)["features"]
        assert looked.sets == ("eval",)
        features = np.full((len(images.entries), 4), np.nan)
        chosen = [number for number, entry in enumerate(images.entries) if entry.set == "eval"]
        features[chosen] = pixels([images.picture(images.entries[number]) for number in chosen]).numpy()
        work = dataclasses.replace(work, seen={"features": features})
        table = _table(images)
        columns, metrics = fid.measure(work, table)
        assert metrics["fid"].value == pytest.approx(fid.frechet(features[chosen], real), rel=1e-6)
        assert np.nanmean(columns["fid"]) == pytest.approx(metrics["fid"].value)
        assert metrics["fid"].warning == (
            "coco_clean_custom_na.npz does not tell how many pictures it is of; compare only equal numbers"
        )
        told = fid.protocol(work)
        assert told["statistics"] == "coco_clean_custom_na.npz" and told["n_drawn"] == len(chosen)
        assert told["mode"] == MODE and "n_real" not in told and told["reference_sha"] == found.sha256
        assert "real pictures as statistics coco_clean_custom_na.npz, their number unknown" in remarks._protocol(
            {"protocol": told}
        )
        reason = "the real pictures are statistics alone (coco_clean_custom_na.npz), this needs the pictures"
        assert kid.measure(work, table)[1] == {"kid": reason} and work.real_pictures == reason
        assert cmmd.looks(work) == {}


def _table(images):
    import pandas as pd

    return pd.DataFrame({"set": [entry.set for entry in images.entries]})


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("cifar10_clean_train_32.npz", "clean"),
        ("FFHQ_legacy_pytorch_trainval70k_1024.npz", "legacy_pytorch"),
        ("my_set_clean_custom_na.npz", "clean"),
        ("mine.npz", None),
        ("clean.npz", None),
    ],
)
def test_a_name_of_clean_fids_tells_the_mode(tmp_path, name, mode):
    assert statistics.mode(tmp_path / name) == mode


@pytest.mark.parametrize(
    ("name", "features", "words"),
    [
        (
            "a_clean_train_32.npz",
            "legacy_pytorch",
            "is of mode clean by its name, score.features is legacy_pytorch",
        ),
        ("a_legacy_tensorflow_train_32.npz", "clean", "only clean or legacy_pytorch are run here"),
        ("a_clean_clip_vit_b_32_train_32.npz", "clean", "by its name of CLIP's features"),
        ("a_clean_train_32_kid.npz", "clean", "by its name of the features of KID"),
        ("a_clean_train_32.npz", "models/mine", "statistics of Inception's features; score.features is models/mine"),
        ("nowhere.npz", "clean", "no such file"),
    ],
)
def test_a_file_of_another_mode_is_refused(narrow, tmp_path, name, features, words):
    if not name.startswith("nowhere"):
        saved(tmp_path / name, np.random.default_rng(0).normal(size=(9, 4)))
    with pytest.raises(UserError) as caught:
        statistics.read(tmp_path / name, features)
    assert f"--reference: {tmp_path / name}: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"feats": np.zeros((3, 4))}, "holds feats; wanted: mu, sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "mu [3], sigma [3, 3]; Inception's are [4], [4, 4]"),
        ({"mu": np.full(4, np.nan), "sigma": np.eye(4)}, "holds NaN or infinity"),
        ({"mu": np.zeros(4), "sigma": np.triu(np.ones((4, 4)))}, "sigma is no covariance"),
        ({"mu": np.zeros(4), "sigma": -np.eye(4)}, "sigma is no covariance"),
        ({"mu": np.array([None] * 4), "sigma": np.eye(4)}, "not a readable .npz"),
        ({"mu": np.array(["a"] * 4), "sigma": np.eye(4)}, "not a readable .npz"),
        (None, "not a readable .npz"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(narrow, tmp_path, arrays, words):
    path = tmp_path / "mine.npz"
    path.write_bytes(b"no zip") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        statistics.read(path, MODE)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_kind_or_a_damaged_one_is_refused_by_its_flag(narrow, tmp_path):
    path = tmp_path / "mine.npz"
    with open(path, "wb") as file:
        np.save(file, np.eye(4))
    with pytest.raises(UserError, match=r"^--eval-pictures: \S+mine\.npz: not a readable \.npz"):
        statistics.read(path, MODE, "--eval-pictures")
    np.savez_compressed(path, mu=np.zeros(4), sigma=np.eye(4))
    with zipfile.ZipFile(path) as held:
        start = held.getinfo("mu.npy").header_offset
    content = bytearray(path.read_bytes())
    begin = start + 30 + int.from_bytes(content[start + 26 : start + 28], "little")
    begin += int.from_bytes(content[start + 28 : start + 30], "little")
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable"):
        statistics.read(path, MODE)


def test_a_reference_may_be_such_a_file(tmp_path):
    path = tmp_path / "mine.npz"
    path.touch()
    assert evaluation.references(path, None) == (None, path)
    with pytest.raises(UserError, match=r"mine\.npz is of real pictures, as --eval-pictures; beside"):
        evaluation.references(path, tmp_path)
