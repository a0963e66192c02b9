"""The erasers that train nothing take seconds, on the default experiment's base and with its values."""

import time
from pathlib import Path

import pytest
import torch

from lethe.models import pipelines
from lethe.params import options, registry
from lethe.stage.record import Budget
from lethe.training.loop import Keeping
from tests.erasing.erasers.subjects import load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("eraser", "changed", "seconds"),
    [("uce", {}, 1.0), ("conceptprune", {}, 5.0), ("conceptprune", {"layers": "ffn.2", "skill_ratio": 0.01}, 5.0)],
)
def test_an_edit_takes_seconds_of_one_core(tmp_path, eraser, changed, seconds):
    """Of CPU time, so that another process on the machine does not count; ConceptPrune's includes its sampling."""
    values = options.load(ROOT / "params.yaml")
    base = load(ROOT / values["base"]["path"])
    concepts = {name: {key: own[key] for key in ("prompt", "anchor")} for name, own in values["concepts"].items()}
    keeping, threads = Keeping(tmp_path, "none", 600), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        found = registry.get("erasers", eraser)
        found.erase(base.unet, base, concepts, values["erase"][eraser] | changed, 0, keeping, Budget())
        taken = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    print(f"{eraser} {changed}: {taken:.2f} s")
    assert taken <= seconds
    before = pipelines.load_base(str(ROOT / values["base"]["path"]), None, ["unet"]).unet
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), base.unet.parameters(), strict=True))
