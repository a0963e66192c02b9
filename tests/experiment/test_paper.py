"""The paper's params files: what they change for another base, and what their published rows are compared with."""

import csv
import re
from pathlib import Path

import pytest

from lethe.experiment import plan
from lethe.experiment.given import roughly
from lethe.params import options

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "lethe/report/published"


def nodes(path: Path) -> list:
    return list(plan.of_given(roughly(options.load(path))).nodes.values())


def test_each_budget_is_pruned_by_its_own_expert():
    found = {
        node.options["budget"]: node.options for node in nodes(ROOT / "params/paper-sd21.yaml") if node.stage == "prune"
    }
    assert {budget: own["checkpoint"] for budget, own in found.items()} == {
        0.8: "models/paper/aptp/80",
        0.55: "models/paper/aptp/55",
    }


def test_the_trainings_are_the_papers():
    found = [node.options for node in nodes(ROOT / "params/paper-sd21.yaml") if node.stage == "distill"]
    both = {(own["w_diff"], own["w_out"], own["w_feat"]) for own in found}
    assert both == {(1.0, 2.0, 0.1), (1.0, 0.0, 0.0), (0.0, 2.0, 0.1)}
    assert {own["steps"] for own in found} == {2000, 4000, 6000, 8000, 10000, 20000}
    assert {(own["lr"], own["warmup"], own["snr_gamma"], own["min_snr_v"]) for own in found} == {
        (1e-6, 250, 5.0, "legacy")
    }


def test_another_base_is_the_few_lines_that_the_page_shows(tmp_path):
    (block,) = re.findall(r"```yaml\n(extends: paper-sd21.*?)```", (ROOT / "docs/paper.md").read_text(), re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(block.replace("extends: ", f"extends: {ROOT}/params/"))
    pruners = {node.options["pruner"] for node in nodes(path) if node.stage == "prune"}
    assert pruners == {"magnitude", "random_init"}
    assert options.load(path)["base"]["mirrors"] == [{"id": "stable-diffusion-v1-5/stable-diffusion-v1-5"}]


@pytest.mark.parametrize("name", ["style", "unsafe"])
def test_each_published_row_has_its_setting_of_ours(name):
    with open(PUBLISHED / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    arms = options.load(ROOT / f"params/paper-sd21{'-unsafe' if name == 'unsafe' else ''}.yaml")["grid"]["arms"]
    for row in rows:
        assert row["setting"].startswith(row["arm"]) and row["arm"] in arms


@pytest.mark.parametrize(
    ("name", "axis", "wanted"),
    [
        ("distillation", "loss", {("0.80", "both", "10000"): 22.7, ("0.55", "diffusion", "2000"): 192.5}),
        ("initialisation", "weights", {("0.80", "fresh", "10000"): 244.0, ("0.55", "inherited", "2000"): 117.0}),
    ],
)
def test_the_figures_values_stand_under_the_labels_of_our_tables(name, axis, wanted):
    with open(PUBLISHED / f"{name}.csv", newline="") as file:
        found = {(row["budget"], row[axis], row["iterations"]): float(row["fid"]) for row in csv.DictReader(file)}
    vary = options.load(ROOT / "params/paper-sd21.yaml")["tables"][name]["vary"]
    assert {label for _, label, _ in found} == set(vary[axis]) and {steps for _, _, steps in found} == set(
        vary["iterations"]
    )
    assert {key: found[key] for key in wanted} == wanted
    assert len(found) == 2 * len(vary[axis]) * 5
