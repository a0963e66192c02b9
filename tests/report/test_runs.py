import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lethe.errors import UserError
from lethe.report.measures import measure
from lethe.report.runs import ordered, read_plan
from tests import fabricated


@pytest.fixture
def mine(plan_path, tmp_path):
    """A copy of the fabricated experiment, to be spoilt."""
    root = shutil.copytree(plan_path.parent, tmp_path / "mine")
    text = (root / "plan.json").read_text()
    (root / "plan.json").write_text(text.replace(str(plan_path.parent), str(root)))
    return root / "plan.json"


def rows(path, change):
    fabricated.edit(path, lambda plan: plan.update(rows=change(plan["rows"])))


def test_every_run_stands_in_its_group(plan_path):
    plan = read_plan(plan_path, "fabricated")
    (group,) = plan.groups
    assert list(group.arms) == ["base", "pruned", "distill", "esd", "bilevel"]
    assert [run.seed for run in group.arms["bilevel"]] == [0, 1]
    assert [run.seed for run in group.arms["base"]] == [None]
    assert group.two_stage == ["esd"]
    assert group.neighbours == {"van_gogh": frozenset({"munch"}), "monet": frozenset({"cassatt"})}
    assert [link["stage"] for link in group.arms["esd"][0].chain] == ["prune", "distill", "erase"]


def test_a_variant_has_its_row_and_backs_no_claim(tmp_path):
    values = fabricated.params()
    values["variants"] = {"esd_gentle": {"of": "esd", "with": {"erase.esd.lr": 1.0e-5}}}
    (group,) = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)).groups
    assert list(group.arms) == ["base", "pruned", "distill", "esd", "bilevel", "esd_gentle"]
    assert group.two_stage == ["esd"]
    assert group.erasing == ["esd", "bilevel", "esd_gentle"]


def test_erasers_that_work_on_no_distilled_model_back_no_claim(tmp_path):
    values = fabricated.params(erase_from="pruned")
    (group,) = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)).groups
    assert group.two_stage == [] and "esd" in group.erasing


def test_order_of_rows():
    assert ordered(["bilevel", "uce", "distill", "esd", "base"]) == ["base", "distill", "uce", "esd", "bilevel"]


def test_a_gap_is_refused(mine):
    rows(mine, lambda found: [row for row in found if (row["arm"], row["seed"]) != ("esd", 1)])
    with pytest.raises(UserError, match=r"no run of esd for budget 0\.8, set all, seed 1"):
        read_plan(mine)


def test_a_doubled_row_is_refused(mine):
    rows(mine, lambda found: [*found, found[-1]])
    with pytest.raises(UserError, match=r"bilevel, budget 0\.8, set all, seed 1 stands there twice"):
        read_plan(mine)


def test_two_rows_for_one_place_are_refused(mine):
    rows(mine, lambda found: [*found, found[-1] | {"set": None}])
    with pytest.raises(UserError, match="twice for budget"):
        read_plan(mine)


def test_a_run_outside_the_grid_is_refused(mine):
    rows(mine, lambda found: [*found, found[-1] | {"seed": 7}])
    with pytest.raises(UserError, match="seed 7 is no run of the grid"):
        read_plan(mine)


def test_another_experiment_is_refused(mine):
    with pytest.raises(UserError, match="experiment 'fabricated', wanted 'atelier'"):
        read_plan(mine, "atelier")


def test_a_plan_that_is_none_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text('{"rows": [{"arm": "base"}]}')
    with pytest.raises(UserError, match="not a report plan"):
        read_plan(tmp_path / "plan.json")


def first(path: Path, kind: str, arm: str) -> Path:
    return Path(next(row for row in json.loads(path.read_text())["rows"] if row["arm"] == arm)[kind])


def test_metrics_of_another_recipe_are_refused(mine):
    fabricated.edit(first(mine, "metrics", "esd") / "meta.json", lambda meta: meta.update(recipe="0000000000"))
    with pytest.raises(UserError, match="holds a result of recipe 0000000000"):
        read_plan(mine)


def test_metrics_of_other_samples_are_refused(mine):
    metrics = first(mine, "metrics", "bilevel")
    fabricated.edit(metrics / "meta.json", lambda meta: meta["parents"]["samples"].update(recipe="0000000000"))
    with pytest.raises(UserError, match="was made from samples of recipe 0000000000"):
        read_plan(mine)


def test_an_unfinished_folder_is_refused(mine):
    (first(mine, "samples", "base") / "meta.json").unlink()
    with pytest.raises(UserError, match="no finished result there"):
        read_plan(mine)


def scores(path: Path, arm: str, change) -> None:
    file = first(path, "metrics", arm) / "scores.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)


def measured(path: Path):
    return measure(read_plan(path).groups[0], 50)


def test_other_picture_seeds_are_refused(mine):
    scores(mine, "bilevel", lambda table: table.assign(seed=table["seed"] + 1))
    with pytest.raises(UserError, match="other prompts or picture seeds"):
        measured(mine)


def test_a_missing_picture_is_refused(mine):
    scores(mine, "distill", lambda table: table[1:])
    with pytest.raises(UserError, match="other prompts or picture seeds"):
        measured(mine)


def test_a_doubled_picture_is_refused(mine):
    scores(mine, "esd", lambda table: pd.concat([table, table[:1]]))
    with pytest.raises(UserError, match="monet/0 stands there twice"):
        measured(mine)


def test_scores_without_a_key_are_refused(mine):
    scores(mine, "esd", lambda table: table.drop(columns="seed"))
    with pytest.raises(UserError, match="missing column seed"):
        measured(mine)


def test_missing_scores_are_refused(mine):
    shutil.move(first(mine, "metrics", "esd") / "scores.csv", mine.parent / "gone.csv")
    with pytest.raises(UserError, match="no readable scores"):
        measured(mine)


def test_a_run_that_was_scored_against_another_model_is_refused(mine):
    (folder,) = (mine.parent / "metrics/bilevel").glob("*-s1-*")
    fabricated.edit(folder / "meta.json", lambda meta: meta["parents"]["reference"].update(recipe="0000000000"))
    with pytest.raises(UserError, match="was scored against 0000000000, distill is"):
        read_plan(mine)
