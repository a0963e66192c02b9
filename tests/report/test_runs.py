import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lethe.files.errors import UserError
from lethe.measuring.measures import measure
from lethe.report.plan import ordered
from lethe.report.reading import read_plan
from tests import fabricated


@pytest.fixture
def mine(plan_path, tmp_path):
    """A copy of the fabricated experiment, to be spoilt."""
    return copied(plan_path, tmp_path)


def copied(plan_path, tmp_path):
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


def test_erasers_that_work_on_no_distilled_model_back_no_claim(tmp_path):
    values = fabricated.params(order="prune_erase")
    (group,) = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)).groups
    assert group.two_stage == [] and "esd" in group.erasing


def test_every_run_of_a_table_stands_in_its_group(tables_path):
    plan = read_plan(tables_path, "fabricated")
    tables = {table.name: table for table in plan.tables}
    assert list(tables) == ["solvers", "plugins", "distillation", "orders", "keeping"]
    assert tables["solvers"].axes == {"solver": ("alternate", "penalty"), "frequency": ("10", "5")}
    (group,) = tables["solvers"].groups
    assert group.own == ["bilevel alternate 10", "bilevel alternate 5", "bilevel penalty 10", "bilevel penalty 5"]
    assert list(group.arms) == ["base", "pruned", "distill", *group.own]
    assert [run.seed for run in group.arms["bilevel penalty 5"]] == [0, 1]
    assert group.arms["bilevel alternate 10"][0].metrics == plan.groups[0].arms["bilevel"][0].metrics
    assert [group.budget for group in tables["distillation"].groups] == [0.55, 0.8]
    assert [run.seed for run in tables["plugins"].groups[0].arms["distill"]] == [0]
    assert [run.seed for run in tables["keeping"].groups[0].arms["pruned 0.1"]] == [None]
    assert all(run.table is None for runs in plan.groups[0].arms.values() for run in runs)


def test_rows_to_compare_with_need_all_seeds_of_the_table(tmp_path):
    values = fabricated.params()
    values["tables"] = {"more": fabricated.table(["bilevel"], {"lr": {"a": {}}}, seeds=[0, 1])}
    (table,) = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)).tables
    assert list(table.groups[0].arms) == ["base", "pruned", "bilevel a"]
    assert measure(table.groups[0], 20).estimate("bilevel a", "csd") is None


def test_a_table_of_pruned_models_may_have_a_seed_of_its_own(tmp_path):
    values = fabricated.params(seeds=[0])
    values["tables"] = {"least": fabricated.table(["pruned"], {"least": {"a": {"prune.keep_least": 0.1}}}, seeds=[7])}
    (table,) = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)).tables
    assert list(table.groups[0].arms) == ["base", "pruned", "pruned a"]


def test_a_link_that_two_others_share_counts_once(mine):
    def twice(found):
        return [row | {"weights": [*row["weights"][:1], *row["weights"]]} for row in found]

    rows(mine, twice)
    (group,) = read_plan(mine).groups
    assert [link["stage"] for link in group.arms["esd"][0].chain] == ["prune", "distill", "erase"]


@pytest.fixture
def tabled(tables_path, tmp_path):
    """A copy of the experiment with tables, to be spoilt."""
    return copied(tables_path, tmp_path)


def row_of(row, table, *labels, **more):
    found = row["table"] == table and tuple(row["labels"].values()) == labels
    return found and all(row[key] == value for key, value in more.items())


def test_a_gap_in_a_table_is_refused(tabled):
    rows(tabled, lambda found: [row for row in found if not row_of(row, "solvers", "penalty", "5", seed=1)])
    with pytest.raises(
        UserError, match=r"no run of bilevel penalty 5 for budget 0\.8, set all, seed 1; .* \(table solvers\)"
    ):
        read_plan(tabled)


def test_a_gap_at_one_budget_of_a_table_is_refused(tabled):
    rows(tabled, lambda found: [row for row in found if not row_of(row, "distillation", "both", "9", budget=0.55)])
    with pytest.raises(UserError, match=r"no run of distill both 9 for budget 0\.55, set all, seed 0, 1"):
        read_plan(tabled)


def test_a_doubled_row_of_a_table_is_refused(tabled):
    rows(tabled, lambda found: [*found, next(row for row in found if row["table"] == "solvers")])
    with pytest.raises(
        UserError, match=r"bilevel alternate 10 of table solvers, .* set all, seed 0 stands there twice"
    ):
        read_plan(tabled)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"solver": "penalty", "frequency": "7"}},
        {"labels": {"solver": "penalty"}},
        {"table": "other"},
        {"seed": 7},
        {"budget": 0.3},
        {"arm": "esd"},
    ],
)
def test_a_run_outside_its_table_is_refused(tabled, change):
    def with_another(found):
        return [*found, next(row for row in found if row_of(row, "solvers", "penalty", "5")) | change]

    rows(tabled, with_another)
    with pytest.raises(UserError, match=f"is no run of table {change.get('table', 'solvers')}"):
        read_plan(tabled)


def test_lineage_of_a_table_is_checked(tabled):
    plan = json.loads(tabled.read_text())
    metrics = Path(next(row for row in plan["rows"] if row_of(row, "solvers", "penalty", "5"))["metrics"])
    fabricated.edit(metrics / "meta.json", lambda meta: meta["parents"]["samples"].update(recipe="0000000000"))
    with pytest.raises(UserError, match="was made from samples of recipe 0000000000"):
        read_plan(tabled)


@pytest.mark.parametrize(("table", "labels"), [("plugins", ["taylor"]), ("distillation", ["both", "9"])])
def test_a_changed_distill_must_be_scored_against_that_of_the_grid(tabled, table, labels):
    """Without a reference its CP would be 0 by definition. At budget 0.55 only the table itself tells the reference."""
    plan = json.loads(tabled.read_text())
    at = next(row for row in plan["rows"] if row_of(row, table, *labels, arm="distill"))
    fabricated.edit(Path(at["metrics"]) / "meta.json", lambda meta: meta["parents"].pop("reference"))
    with pytest.raises(UserError, match="was scored against"):
        read_plan(tabled)


@pytest.mark.parametrize(
    ("name", "axis", "message"),
    [
        ("style", "lr", "'style' is the name of an arm or of another table's file"),
        ("esd", "lr", "'esd' is the name of an arm"),
        ("solvers_paired", "lr", "'solvers_paired' is the name of"),
        ("mine", "fid_lo", "tables.mine.vary: 'fid_lo' is the name of a column"),
        ("mine", "budget", "'budget' is the name of a column"),
    ],
)
def test_names_that_are_taken(tabled, name, axis, message):
    own = fabricated.table(["bilevel"], {axis: {"a": {}}})
    fabricated.edit(tabled, lambda plan: plan["params"]["tables"].update({name: own}))
    with pytest.raises(UserError, match=message):
        read_plan(tabled)


def test_a_plan_without_labels_is_refused(tabled):
    rows(tabled, lambda found: [{key: value for key, value in row.items() if key != "labels"} for row in found])
    with pytest.raises(UserError, match="not a report plan \\(missing 'labels'\\)"):
        read_plan(tabled)


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
    fabricated.signed(file.parent)


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
    with pytest.raises(UserError, match=r"scores\.csv: missing, though meta\.json lists it"):
        measured(mine)


def test_scores_changed_by_hand_are_refused(mine):
    file = first(mine, "metrics", "esd") / "scores.csv"
    file.write_text(file.read_text().replace("monet", "munch", 1))
    with pytest.raises(UserError, match=r"scores\.csv: sha256 is not the one in meta\.json"):
        measured(mine)


def test_a_run_that_was_scored_against_another_model_is_refused(mine):
    (folder,) = (mine.parent / "metrics/bilevel").glob("*-s1-*")
    fabricated.edit(folder / "meta.json", lambda meta: meta["parents"]["reference"].update(recipe="0000000000"))
    with pytest.raises(UserError, match="was scored against 0000000000, distill is"):
        read_plan(mine)
