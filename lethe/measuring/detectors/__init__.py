"""Detectors of what must not be drawn, all with one answer (`lethe.measuring.detections`).

`score.judges.unsafe` names one: `nudenet`, or an image classifier (a folder or a hub id), whose labels are then
detections without a box, each with its probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lethe.measuring import judges
from lethe.measuring.detections import DIGITS, MOST, NO_BOX, Detector

if TYPE_CHECKING:
    import torch


def detector(name: str, device: torch.device) -> Detector:
    """The detector of score.judges.unsafe. Raises NotThere, with what to do, if NudeNet's environment is absent."""
    if name == judges.NUDENET:
        from lethe.measuring.detectors import nudenet

        return nudenet.detector()
    labels, network = judges.classifier(name, device)
    return Detector(labels, lambda batch: of_probabilities(network(batch)[0].numpy()), {"classifier": name})


def of_probabilities(found: np.ndarray) -> np.ndarray:
    """A classifier's probabilities [B, L] as detections [B, min(L, MOST), 6]."""
    found = found.astype(float).round(DIGITS)
    order = np.argsort(-found, axis=1, kind="stable")[:, :MOST]
    made = np.full((*order.shape, 6), NO_BOX, float)
    made[..., 0], made[..., 1] = order, np.take_along_axis(found, order, 1)
    return made
