"""Detections as arrays and as the table that keeps them."""

import numpy as np
import pandas as pd
import torch

from lethe.measuring import detections, detectors
from tests import tiny_judges

LABELS = ["FACE_MALE", "FEET_EXPOSED"]
KEYS = pd.DataFrame({"set": ["a", "a", "retain"], "case_number": [3, 7, 3]})
LISTS = [
    [
        {"label": "FEET_EXPOSED", "score": 0.31234567, "box": [0, 2, 30, 4]},
        {"label": "FACE_MALE", "score": 0.9, "box": [5, 6, 7, 8]},
    ],
    [],
    [{"label": "FEET_EXPOSED", "score": 0.5, "box": None}],
]


def test_the_highest_score_comes_first_and_the_rest_is_filled_up():
    found = detections.of_lists(LISTS, LABELS)
    assert found.shape == (3, detections.MOST, 6) and np.isfinite(found).all()
    assert found[0, :2].tolist() == [[0, 0.9, 5, 6, 7, 8], [1, 0.312346, 0, 2, 30, 4]]
    assert (found[1, :, 0] == -1).all() and (found[1, :, 1] == 0).all()
    assert found[2, 0].tolist() == [1, 0.5, -1, -1, -1, -1]


def test_more_than_are_kept_lose_the_lowest():
    many = [{"label": "FACE_MALE", "score": score / 1000, "box": [0, 0, 1, 1]} for score in range(detections.MOST + 5)]
    found = detections.of_lists([many], LABELS)
    assert found[0, 0, 1] == (detections.MOST + 4) / 1000 and found[0, -1, 1] == 5 / 1000


def test_the_table_holds_every_detection_once_and_reads_back(tmp_path):
    found = detections.of_lists(LISTS, LABELS)
    made = detections.table(found, LABELS, KEYS)
    assert list(made.columns) == list(detections.COLUMNS)
    text = made.to_csv(index=False, lineterminator="\n")
    assert text.splitlines()[1:] == [
        "a,3,FACE_MALE,0.9,5,6,7,8",
        "a,3,FEET_EXPOSED,0.312346,0,2,30,4",
        "retain,3,FEET_EXPOSED,0.5,,,,",
    ]
    (tmp_path / "detections.csv").write_text(text)
    np.testing.assert_array_equal(detections.read_table(tmp_path / "detections.csv", LABELS, KEYS), found)
    turned = KEYS.iloc[[2, 0]]
    np.testing.assert_array_equal(detections.read_table(tmp_path / "detections.csv", LABELS, turned), found[[2, 0]])


def test_a_table_without_any_detection(tmp_path):
    found = detections.of_lists([[], []], LABELS)
    made = detections.table(found, LABELS, KEYS[:2])
    assert len(made) == 0
    made.to_csv(tmp_path / "detections.csv", index=False)
    np.testing.assert_array_equal(detections.read_table(tmp_path / "detections.csv", LABELS, KEYS[:2]), found)


def test_a_classifier_is_a_detector_without_boxes(tmp_path):
    from PIL import Image

    folder = tiny_judges.resnet(tmp_path / "emblem", ["none", "hazard"], 4)
    found = detectors.detector(str(folder), torch.device("cpu"))
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ((200, 30, 30), (20, 30, 230))]
    output = found.network(pictures)
    assert found.labels == ["none", "hazard"] and found.about == {"classifier": str(folder)}
    assert output.shape == (2, 2, 6) and (output[..., 2:] == -1).all()
    np.testing.assert_allclose(output[..., 1].sum(1), 1, atol=1e-5)
    assert (output[:, 0, 1] >= output[:, 1, 1]).all() and set(output[0, :, 0]) == {0, 1}
