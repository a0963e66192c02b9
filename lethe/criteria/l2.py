"""L2 magnitude: the sum of squares of all weights that go with a channel (group magnitude of DepGraph, CVPR 2023)."""

from collections.abc import Mapping

import torch_pruning as tp
from torch import Tensor, nn

OPTIONS = {}


def importance(unet: nn.Module, groups: Mapping[str, tp.Group]) -> dict[str, Tensor]:
    """Scores [channels] by layer; see the package's docstring."""
    score = tp.importance.GroupMagnitudeImportance(p=2)
    return {path: score(group) for path, group in groups.items()}
