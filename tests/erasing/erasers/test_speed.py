"""Erasers that train nothing cost a few passes of the U-Net, on the default experiment's base and with its values."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lethe.models import pipelines
from lethe.params import options, registry
from lethe.stage.record import Budget
from lethe.training.loop import Keeping
from tests.erasing.erasers.subjects import load

ROOT = Path(__file__).parents[3]


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def forward(unet: torch.nn.Module) -> None:
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    with torch.no_grad():
        unet(torch.zeros(32, unet.config.in_channels, side, side), torch.tensor(500), torch.zeros(32, 16, width))


@pytest.mark.parametrize(
    ("eraser", "changed", "passes"),
    [("uce", {}, 10), ("conceptprune", {}, 40), ("conceptprune", {"layers": "ffn.2", "skill_ratio": 0.01}, 40)],
)
def test_an_edit_costs_a_few_passes(tmp_path, eraser, changed, passes):
    """In CPU time, one thread: an edit against a pass of 32 latents. ConceptPrune draws with 16 prompts for ten
    steps, which are ten such passes alone."""
    values = options.load(ROOT / "params.yaml")
    base = load(ROOT / values["base"]["path"])
    concepts = {name: {key: own[key] for key in ("prompt", "anchor")} for name, own in values["concepts"].items()}
    keeping, threads = Keeping(tmp_path, "none", 600), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = min(seconds(lambda: forward(base.unet)) for _ in range(3))
        start = time.process_time()
        found = registry.get("erasers", eraser)
        found.erase(base.unet, base, concepts, values["erase"][eraser] | changed, 0, keeping, Budget())
        taken = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    print(f"{eraser} {changed}: {taken:.2f} s, {taken / one:.1f} passes of {one:.3f} s")
    assert taken <= passes * one
    before = pipelines.load_base(str(ROOT / values["base"]["path"]), None, ["unet"]).unet
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), base.unet.parameters(), strict=True))
