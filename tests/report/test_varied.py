import numpy as np
import pandas as pd
import pytest

from lethe.report import markup, varied
from lethe.report.columns import measured
from lethe.report.reading import read_plan
from tests import fabricated


@pytest.fixture(scope="module")
def tables(tables_path):
    """Name -> table, and its measured groups."""
    return {table.name: (table, measured(table.groups, 200)) for table in read_plan(tables_path).tables}


def own(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["reference"].isna()]


def test_rows_are_all_combinations_below_those_of_the_grid(tables):
    rows = varied.frame(*tables["solvers"])
    assert list(rows.columns[:6]) == ["arm", "solver", "frequency", "set", "keep", "reference"]
    assert rows.loc[rows["reference"] == "grid", "arm"].tolist() == ["base", "pruned", "distill"]
    found = own(rows)
    assert found[["solver", "frequency"]].to_numpy().tolist() == [
        ["alternate", "10"], ["alternate", "5"], ["penalty", "10"], ["penalty", "5"],
    ]  # fmt: skip
    assert (found["arm"] == "bilevel").all() and (found["n_seeds"] == 2).all()
    assert found["fid"].tolist() == pytest.approx([20.5, 30, 18, 30])
    assert (found["fid_lo"] < found["fid"]).all() and (found["fid"] < found["fid_hi"]).all()


def test_a_row_without_changes_is_that_of_the_grid(tables, tables_path):
    (_, grid, _), *_ = measured(read_plan(tables_path).groups, 200)
    table, found = tables["solvers"]
    row = own(varied.frame(table, found)).iloc[0]
    for name in (metric.name for metric in varied.columns(found)):
        there = grid.estimate("bilevel", name)
        here = None if there is None else (there.value, there.lo, there.hi)
        assert here is None or here == (row[name], row[f"{name}_lo"], row[f"{name}_hi"]), name


def test_references_have_the_seeds_of_the_table(tables):
    rows = varied.frame(*tables["plugins"]).set_index(["arm", "reference"])
    assert rows.loc[("distill", "grid"), "n_seeds"].item() == 1
    found = own(varied.frame(*tables["plugins"])).set_index(["arm", "pruner"])
    assert found.loc[("distill", "l2"), ["cp", "cp_lo", "cp_hi", "csd"]].tolist() == [0, 0, 0, 100]
    assert found.loc[("distill", "taylor"), "cp_hi"] > 0


def test_a_budget_that_the_grid_has_not(tables):
    """Only the base model stands above its rows; CSD is relative to the table's own unchanged row."""
    rows = varied.frame(*tables["distillation"])
    lower = rows[(rows["keep"] == 0.55) | (rows.index == 0)]
    assert lower["arm"].tolist() == ["base", *["distill"] * 4]
    assert lower.iloc[1]["csd"] == 100 and lower["csd"].notna().all()
    assert rows.loc[rows["keep"] == 0.8, "reference"].tolist().count("grid") == 2


def test_latency_and_size_of_kept_and_dense_models(tables):
    rows = varied.frame(*tables["orders"]).set_index("arm", append=True)
    columns = ["keep", "macs_kept", "params_kept", "latency_1_ms", "latency_8_ms"]
    assert rows.xs("base", level="arm")[columns].to_numpy().tolist() == [[1, 1, 1, 30, 200]]
    assert rows.xs("esd", level="arm")[columns].to_numpy().tolist() == [
        [0.8, 0.803, 0.79, 25, 160], [1, 1, 1, 30, 200],
    ]  # fmt: skip
    assert rows.xs("esd", level="arm")["zeroed"].tolist() == [0.0012, 0.0012]
    assert np.isnan(rows.xs("distill", level="arm")["zeroed"].item())


def test_unmeasured_latency_has_no_column(tmp_path):
    values = fabricated.params(arms=["distill"])
    values["tables"] = {"one": fabricated.table(["distill"], {"lr": {"a": {}, "b": {"distill.lr": 1.0e-5}}})}
    plan = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8))
    rows = varied.frame(plan.tables[0], measured(plan.tables[0].groups, 20))
    assert not {"params_kept", "latency_1_ms", "latency_8_ms", "zeroed"} & set(rows.columns)
    assert "macs_kept" in rows


def test_text_marks_the_best_of_its_own_rows(tables):
    table, found = tables["solvers"]
    rows = varied.frame(table, found)
    text = varied.text(table, rows, found)
    assert text.header[:3] == ["arm", "solver", "frequency"]
    assert text.labels == {0: "from the grid, to compare with", 3: "this table"}
    fid = text.header.index("FID ↓")
    assert [place for place in text.best if place[1] == fid] == [(5, fid)]
    assert all(row >= 3 for row, _ in text.best)
    assert {"ms at 1", "ms at 8", "params kept"} <= set(text.header)
    md = markup.to_md(text)
    assert {line.count("|") for line in md.splitlines() if line.startswith("|")} == {len(text.header) + 1}


def test_arms_that_erase_nothing_compete_apart(tables):
    table, found = tables["plugins"]
    rows = varied.frame(table, found)
    text = varied.text(table, rows, found)
    fid = text.header.index("FID ↓")
    best = {(rows["arm"][row], rows["pruner"][row]) for row, column in text.best if column == fid}
    assert best == {("distill", "l2"), ("bilevel", "l2")}


def test_dense_rows_compete_apart(tables):
    table, found = tables["orders"]
    text = varied.text(table, varied.frame(table, found), found)
    assert "keep" in text.header and text.best == set()


def test_differences_are_to_the_first_row_of_the_arm(tables):
    table, found = tables["solvers"]
    lines = varied.paired(table, found)
    assert set(lines["against"]) == {"alternate 10"}
    fid = lines[lines["metric"] == "fid"].set_index(["solver", "frequency"])
    assert fid["difference"].to_dict() == {
        ("alternate", "5"): pytest.approx(9.5),
        ("penalty", "10"): pytest.approx(-2.5),
        ("penalty", "5"): pytest.approx(9.5),
    }
    assert fid["better"].tolist() == ["no", "yes", "no"]
    text = varied.paired_text(table, lines)
    assert text.labels == {0: "bilevel: minus alternate 10"} and len(text.rows) == 3
    column = text.header.index("FID ↓")
    assert (1, column) in text.best and {(0, column), (2, column)} <= text.worst
    assert text.rows[1][column][0] == "−2.50"


def test_rivals_of_the_grid_stand_above_and_are_compared_with(tmp_path):
    values = fabricated.params(arms=["distill", "esd", "uce", "bilevel"])
    one = fabricated.table(["bilevel"], {"lr": {"a": {}, "b": {"bilevel.upper_lr": 1.0e-5}}})
    values["tables"] = {"one": one | {"against": ["uce"]}}
    table = read_plan(fabricated.experiment(tmp_path, values, count=6, side=8)).tables[0]
    found = measured(table.groups, 50)
    rows = varied.frame(table, found)
    assert rows.loc[rows["reference"] == "grid", "arm"].tolist() == ["distill", "uce"]
    lines = varied.paired(table, found)
    assert lines[["against", "lr"]].drop_duplicates().to_numpy().tolist() == [["a", "b"], ["uce", "a"], ["uce", "b"]]
    ((_, mine, _),) = found
    line = lines[(lines["against"] == "uce") & (lines["lr"] == "b") & (lines["metric"] == "fid")].iloc[0]
    wanted = mine.difference("bilevel b", "uce", "fid")
    assert (line["difference"], line["lo"], line["hi"]) == (wanted.value, wanted.lo, wanted.hi)
    assert varied.paired_text(table, lines).labels == {0: "bilevel: minus a", 1: "bilevel: minus uce"}


def test_each_arm_has_its_own_first_row(tables):
    table, found = tables["plugins"]
    lines = varied.paired(table, found)
    assert set(lines["arm"]) == {"distill", "bilevel", "esd"} and set(lines["pruner"]) == {"taylor"}
    text = varied.paired_text(table, lines)
    assert text.labels == {0: "distill: minus l2", 1: "bilevel: minus l2", 2: "esd: minus l2"}
    assert text.breaks == {1, 2}


def test_several_budgets_have_differences_of_their_own(tables):
    table, found = tables["distillation"]
    text = varied.paired_text(table, varied.paired(table, found))
    assert text.header[:4] == ["arm", "loss", "iterations", "keep"]
    assert len(text.rows) == 2 * 3 and list(text.labels) == [0, 3]


def test_the_matrix_is_one_axis_by_several_arms(tables):
    table, found = tables["plugins"]
    cells = varied.matrix(table, found).set_index("pruner")
    rows = own(varied.frame(table, found)).set_index(["pruner", "arm"])
    for label in ("l2", "taylor"):
        for arm in table.arms:
            for name in ("ua", "ua_lo", "ua_hi", "fid", "fid_lo", "fid_hi"):
                assert cells.loc[label, f"{arm}_{name}"] == rows.loc[(label, arm), name]
    text = varied.matrix_text(table, varied.matrix(table, found), varied.pair_of_metrics(found))
    assert text.header == ["pruner", *(f"{arm}: UA ↑ / FID ↓" for arm in ("distill", "bilevel", "esd"))]
    value, ends = text.rows[0][2]
    assert value.endswith(" / 20.50") and ends.count("[") == 2
    for name in ("solvers", "distillation", "orders"):
        assert varied.matrix(*tables[name]) is None


def test_without_judges_the_matrix_takes_the_next_metric(tmp_path):
    def score(row, seed, table):
        return fabricated.scored(row, seed, table).drop(columns=["style_ok", "style_pred", "shown"])

    values = fabricated.params()
    values["tables"] = {"two": fabricated.table(["bilevel", "esd"], {"lr": {"a": {}}})}
    plan = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8, score=score))
    (table,) = plan.tables
    found = measured(table.groups, 20)
    assert [metric.name for metric in varied.pair_of_metrics(found)] == ["csd", "fid"]
    assert varied.matrix(table, found).shape == (1, 3 + 2 * 6)
    assert varied.paired(table, found).empty


def test_arms_without_training_seeds(tables):
    rows = own(varied.frame(*tables["keeping"]))
    assert rows["keep_least"].tolist() == ["0.2", "0.1"] and rows["n_seeds"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["solvers", "my_own"])
def test_titles(name):
    assert varied.title(name) == {"solvers": "Solvers of the bilevel problem", "my_own": "My own"}[name]
