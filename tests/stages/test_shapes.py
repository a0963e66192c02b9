"""Any method on any U-Net: with dropped layers, and one whole stage shorter. Each is trained, saved, and loaded."""

import json
import re
from itertools import cycle
from pathlib import Path

import pytest

from lethe.files.errors import UserError
from lethe.files.io import read_meta, result_folder
from lethe.models import cutting, pipelines, unets
from lethe.params import options, registry
from lethe.stage.record import Recorder
from tests.stages.running import Ready, stage, weights
from tests.tiny_training import OPTIONS, UPPER

GONE = ["down_blocks.1.resnets.1", "down_blocks.0.attentions.1", "up_blocks.1.resnets.2", "up_blocks.2.attentions.2"]
CONCEPTS = {"monet": {"prompt": "by monet", "anchor": "a boat"}, "van_gogh": {"prompt": "by van", "anchor": "a boat"}}
ERASE = options.load(Path(__file__).parents[2] / "params/smoke.yaml")["erase"]
PENALTY = {"inner_steps": 2, "coupling": "reset", "pull": 0.5, "lambda_growth": 1.0, "lambda_most": 1.0}
SOLVERS = {
    "alternate": {"upper_every": 2},
    "penalty": PENALTY | {"lambda": 1.0, "gap_tolerance": 0.0, "second_copy": "cpu"},
    "weighted_sum": {"lambda": 1.0},
}
SUPPRESSIONS = {name: {} for name in registry.names("suppressions")} | {
    "negative_guidance": {"eta": 1.0, "away_from": "empty"},
    "attention_forgetting": {"end_token": True, "padding": False, "norm": "all"},
}
PAIRS = [
    (solver, suppression) for solver, suppression in zip(cycle(SOLVERS), registry.names("suppressions"), strict=False)
]


def test_the_pairs_below_leave_none_out():
    assert {solver for solver, _ in PAIRS} == set(SOLVERS) == set(registry.names("solvers"))
    assert {suppression for _, suppression in PAIRS} == set(registry.names("suppressions"))


@pytest.fixture(scope="module", params=["dropped", "bk_tiny"])
def short(request, other, tmp_path_factory) -> Ready:
    """The base's U-Net without four layers, which are stand-ins, or as BK's tiny, which is a config of its own."""
    out = tmp_path_factory.mktemp(request.param) / "pruned"
    if request.param == "dropped":
        unet = pipelines.load_base(str(other.base), None, ["unet"]).unet
        layers = {path: {"kind": "dropped", "total": 1, "kept": []} for path in GONE}
        cutting.cut(unet, layers)
        with result_folder(out) as part:
            unets.save_unet(unet, {"pruner": "by hand", "budget": 0.5, "layers": layers}, part)
            Recorder("prune", 0, "by-hand", {}, {}).write(part)
    else:
        words = ["--base", other.base, "--out", out, "--pruner", "bk_tiny", "--keep-least", 0.2, "--tolerance", 0.01]
        with pytest.raises(UserError) as told:
            stage("prune", *words, "--budget", 0.99)
        stage("prune", *words, "--budget", re.search(r"ask for (\d\.\d+)", str(told.value)).group(1))
    return Ready(other.base, out, other.data, other.concepts)


def changed(before: Path, after: Path) -> set[str]:
    """Names of the weights that differ; both nets are loaded by what they were saved with."""
    old, new = (unets.load_unet(folder).state_dict() for folder in (before, after))
    assert old.keys() == new.keys()
    return {name for name in old if not old[name].equal(new[name])}


@pytest.mark.parametrize("eraser", registry.names("erasers"))
def test_every_eraser(short, tmp_path, eraser):
    out = tmp_path / "out"
    words = ["--base", short.base, "--eraser", eraser, "--model", short.pruned, "--seed", 0, "--data", short.data]
    words += ["--concepts", json.dumps(CONCEPTS), "--concept-pictures", *short.named()]
    stage("erase", *words, "--out", out, "--state", tmp_path / "state", **ERASE[eraser])
    found = changed(short.pruned, out)
    assert bool(found) != registry.guides(eraser)
    assert all(".attn2." in name for name in found)
    assert unets.read_pruning(out) == unets.read_pruning(short.pruned)


@pytest.mark.parametrize(("solver", "suppression"), PAIRS)
def test_every_solver_and_every_suppression(short, tmp_path, solver, suppression):
    shared = {key: value for key, value in UPPER.items() if key not in ("upper_every", "eta", "away_from")}
    values = OPTIONS | shared | {"solver": solver, "suppression": suppression, "steps": 2}
    values |= SOLVERS[solver] | SUPPRESSIONS[suppression]
    words = short.training("--concepts", *short.named(), "--out", tmp_path / "out", "--state", tmp_path / "state")
    stage("bilevel", *words, **values)
    assert read_meta(tmp_path / "out")["levels"]["upper"]["student_backward"] == UPPER["upper_batch"] * (
        2 if solver == "weighted_sum" else 1
    )
    assert weights(tmp_path / "out") != weights(short.pruned)
    assert changed(short.pruned, tmp_path / "out")
