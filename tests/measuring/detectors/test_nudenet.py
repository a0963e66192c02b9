"""The worker's protocol, with a fake one; and NudeNet itself, if it is set up."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lethe.files.errors import NotThere, UserError
from lethe.measuring.detectors import nudenet
from lethe.params.registry import LETHE

FAKE = Path(__file__).with_name("fake_worker.py")
LOCK = LETHE.parent / "envs" / "nudenet.txt"


def fake(kind):
    return nudenet.started([sys.executable, "-I", str(FAKE), kind])


def pictures(*widths):
    return [Image.new("RGB", (width, 4), (9, 9, 9)) for width in widths]


def test_every_picture_gets_its_detections_whatever_the_batch():
    found = fake("works")
    assert found.labels == ["FACE_MALE", "FEET_EXPOSED"]
    assert found.about == {"version": "3.4.2", "model_sha256": "0" * 64}
    widths = [3, 1, 2, 5, 4, 1, 1, 2, 7, 6]  # eight go in a line
    output = found.network(pictures(*widths))
    assert (output[..., 0] >= 0).sum(1).tolist() == widths
    assert output[0, 0].tolist() == [1, 0.8, 1, 2, 3, 4] and output[9, 5, 1] == pytest.approx(0.15)
    assert found.network(pictures(2)).shape == (1, 100, 6)  # it still answers


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dies", "ended with code 1 (ModuleNotFoundError: No module named 'nudenet'); run make nudenet"),
        ("old", "version 3.4.2 is wanted, found 3.4.1; run make nudenet"),
        ("chatty", "answered no JSON: b'Welcome!"),
    ],
)
def test_a_worker_that_does_not_start_is_told_in_one_line(kind, words):
    with pytest.raises(UserError) as error:
        fake(kind)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("refuses", "ValueError: no picture"),
        ("ends", "ended with code 3 (nothing said)"),
        ("forgets", "answered for 0 pictures of 2"),
    ],
)
def test_a_worker_that_fails_is_told_in_one_line(kind, words):
    found = fake(kind)
    with pytest.raises(UserError) as error:
        found.network(pictures(2, 3))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_silent_worker_is_stopped(monkeypatch):
    monkeypatch.setattr(nudenet, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"said nothing for 0.2 s"):
        fake("silent")


def test_no_such_interpreter():
    with pytest.raises(UserError, match=r"/no/python does not start .*; run make nudenet"):
        nudenet.started(["/no/python"])


def test_without_its_environment_the_reason_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(nudenet, "FOLDER", tmp_path / ".venv-nudenet")
    nudenet.detector.cache_clear()
    with pytest.raises(NotThere, match=r"NudeNet 3.4.2 is not set up \(no .venv-nudenet\): run make nudenet"):
        nudenet.detector()


def test_the_lock_has_the_version_that_the_code_wants():
    assert f"nudenet=={nudenet.VERSION} \\" in LOCK.read_text()
    assert LOCK.read_text().count("--hash=sha256:") > 10


@pytest.fixture(scope="module")
def real():
    if not nudenet.python().is_file():
        pytest.skip("NudeNet is not set up: make nudenet")
    return nudenet.detector()


@pytest.fixture(scope="module")
def portrait():
    import matplotlib

    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")


def test_nudenet_finds_a_face(real, portrait):
    assert real.about["version"] == "3.4.2"
    assert real.about["model_sha256"] == "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
    assert real.about["resolution"] == 320 and real.about["floor"]["suppression_score"] == 0.25
    assert len(real.labels) == 18
    output = real.network([portrait, portrait.resize((64, 64)), portrait])
    label, score, *box = output[0, 0]
    assert real.labels[int(label)] == "FACE_FEMALE" and score == pytest.approx(0.61488, abs=1e-3)
    assert np.allclose(box, [168, 138, 188, 207], atol=3)
    np.testing.assert_array_equal(output[0], output[2])


def test_nudenets_own_floor_is_a_quarter(real):
    done = subprocess.run(
        [
            *(str(nudenet.python()), "-I", "-c"),
            "import cv2; print(cv2.dnn.NMSBoxes([[0, 0, 5, 5], [20, 0, 5, 5]], [0.24, 0.26], 0.25, 0.45))",
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[1]", done.stderr


def test_nudenet_says_what_is_wrong_with_a_picture(real, monkeypatch):
    monkeypatch.setattr(nudenet, "_png", lambda picture: b"no picture")
    with pytest.raises(UserError, match="NudeNet: "):
        real.network(pictures(4))
