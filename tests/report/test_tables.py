import re

import numpy as np
import pandas as pd
import pytest

from lethe.files.io import read_json, write_json
from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import METRICS, measure
from lethe.report import columns, cost, markup, tables
from lethe.report.reading import read_plan
from lethe.report.tables import PUBLISHED
from tests import fabricated

LEVEL = {"base": 1.0, "pruned": 0.4, "distill": 0.8, "esd": 0.4, "bilevel": 0.0}


def known(arm, seed, table):
    """Scores whose means are known: the first LEVEL of each erased set's pictures are in its style."""
    erased = ~table["set"].isin(["retain", "eval"])
    table["clip"] = np.where(erased, 30 + 10 * LEVEL[arm] + (seed or 0), 25.0)
    table["csd"] = np.where(erased, 50 * LEVEL[arm] + 10, np.nan)
    right = np.where(erased, table["case_number"] < 10 * LEVEL[arm], table["artist"] == "munch")
    table["style_ok"] = right.astype(float)
    table.loc[table["set"] == "eval", "style_ok"] = np.nan
    table["content_ok"] = np.where(table["set"] == "eval", np.nan, 1.0)
    if arm != "pruned":
        table["cp"] = np.where(erased, float(arm != "distill"), np.nan)
    return fabricated.judged(table)


def found(tmp_path, **grid):
    fid = {"distill": (20.0, 1.0), "esd": (30.0, 2.0), "bilevel": (20.5, 1.0)}
    path = fabricated.experiment(tmp_path, fabricated.params(**grid), count=10, side=8, score=known, fid=fid)
    return [
        (group, measure(group, 300), {arm: cost.of(runs) for arm, runs in group.arms.items()})
        for group in read_plan(path).groups
    ]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return found(tmp_path_factory.mktemp("known"), seeds=[0, 2])


def style(groups) -> pd.DataFrame:
    return tables.style(groups, PUBLISHED / "style.csv")


def ours(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["source"] == columns.OURS].set_index("arm")


def test_values_are_the_means_of_the_scores(groups):
    table = ours(style(groups))
    assert table.loc["bilevel", "ua"] == 100
    assert table.loc["esd", "ua"] == pytest.approx(60)
    assert table.loc["esd", "clip"] == 35  # seeds 0 and 2
    assert (table.loc["esd", "clip_lo"], table.loc["esd", "clip_hi"]) == (34, 36)
    assert table.loc["base", "clip"] == 40
    assert table.loc["distill", "csd"] == 100
    assert table.loc["bilevel", "csd"] == pytest.approx(100 * 10 / 50)
    assert table.loc["bilevel", "csd_raw"] == 10
    assert table.loc["esd", "ira_neighbour"] == 100
    assert table.loc["esd", "ira_other"] == 0
    assert table.loc["esd", "cra"] == 100
    assert table.loc["esd", "clip_retain"] == 25
    assert table.loc["esd", "fid"] == pytest.approx(30)
    assert table.loc["distill", ["cp", "cp_lo", "cp_hi"]].tolist() == [0, 0, 0]


def test_a_share_of_all_pictures_keeps_doubt(groups):
    row = ours(style(groups)).loc["bilevel"]
    assert row["ua_hi"] == 100
    assert row["ua_lo"] == pytest.approx(100 - 100 * 3.8415 / (20 + 3.8415), abs=0.01)


def test_interval_of_a_share_agrees_with_the_normal_one(groups):
    """Two strata of 10 prompts, 4 of 10 in each: variance of the mean is 0.24 / 20."""
    row = ours(style(groups)).loc["esd"]
    assert (row["ua_hi"] - row["ua_lo"]) / 2 == pytest.approx(100 * 1.96 * np.sqrt(0.24 / 20), rel=0.15)


def test_costs_add_along_the_chain(groups):
    table = ours(style(groups))
    assert table["gpu_seconds"].to_dict() == {"base": 0, "pruned": 10, "distill": 20, "esd": 30, "bilevel": 20}
    assert table["budget"].to_dict() == {
        "base": 0, "pruned": 0, "distill": 3 * 32 * 60, "esd": 3 * 32 * 66, "bilevel": 3 * 32 * 66,
    }  # fmt: skip
    assert table["macs_kept"].to_dict() == dict.fromkeys(LEVEL, 0.803) | {"base": 1.0}
    assert table["n_seeds"].to_dict() == {"base": 1, "pruned": 1, "distill": 2, "esd": 2, "bilevel": 2}
    assert table.loc["esd", "n_images"] == 2 * (20 + 20 + 10)


def test_a_missing_metric_is_empty_or_a_dash_and_never_zero(groups, tmp_path):
    table = style(groups)
    markup.write(table, tables.style_text(table), tmp_path / "out", "style")
    with open(tmp_path / "out" / "style.csv") as file:
        written = pd.read_csv(file)
    assert np.isnan(ours(written).loc["pruned", "cp"])
    assert written["kid"].isna().all()
    assert (written["source"] == "arXiv 2412.15341 Table 1").sum() == 6
    lines = (tmp_path / "out" / "style.md").read_text().splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    pruned = next(line for line in lines if line.startswith("| pruned"))
    assert pruned.strip("|").split("|")[header.index("CP ↑")].strip() == "–"
    assert "KID ↓" not in header


def test_published_rows_are_those_of_the_paper():
    table = pd.read_csv(PUBLISHED / "style.csv").set_index("arm")
    assert table.loc["bilevel", ["clip", "cp", "csd", "fid", "clip_retain"]].tolist() == [
        26.28,
        97.6,
        39.04,
        22.24,
        29.19,
    ]
    assert table.loc["uce", ["clip", "cp", "csd", "fid", "clip_retain"]].tolist() == [30.48, 82.66, 65.09, 26.63, 29.28]


def test_markdown_and_tex_have_as_many_cells_everywhere(groups):
    for text in (tables.style_text(style(groups)), tables.paired_text(tables.paired(groups))):
        body = [line for line in markup.to_md(text).splitlines() if line.startswith("|")]
        assert {line.count("|") for line in body} == {len(text.header) + 1}
        tex = markup.to_tex(text)
        lines = [line for line in tex.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
        assert {line.count("&") - line.count("\\&") for line in lines} == {len(text.header) - 1}
        assert len(lines) == len(text.rows) + 1
        assert tex.count("{") == tex.count("}")
        assert tex.index("toprule") < tex.index("midrule") < tex.index("bottomrule")
        assert re.search(r"\\begin\{tabular\}\{lr+\}", tex)[0].count("r") - 1 == len(text.header) - 1
        assert not set("↑↓−–_") & set(re.sub(r"(?m)^%.*$", "", tex))


def test_the_best_erasing_arm_is_marked(groups):
    md = markup.to_md(tables.style_text(style(groups)))
    rows = {line.split("|")[1].strip(): line for line in md.splitlines()[2:9]}
    assert rows["bilevel"].count("**") >= 2 and "**20.50**" in rows["bilevel"]
    assert "**100.0**" not in rows["base"] and "**" not in rows["distill"]
    assert "**26.28**" in md  # the published rows compete among themselves


def test_paired_differences(groups):
    table = tables.paired(groups).set_index(["against", "metric"])
    row = table.loc[("esd", "clip")]
    assert (row["difference"], row["lo"], row["hi"]) == (-4, -4, -4)  # the seeds' spread is shared
    assert row["better"] == "yes"
    assert table.loc[("esd", "clip_retain"), "better"] == ""
    assert table.loc[("distill", "cp"), "better"] == "yes"
    fid = table.loc[("distill", "fid")]
    assert fid["difference"] == pytest.approx(0.5) and fid["lo"] < 0.5 < fid["hi"] and fid["better"] == ""
    assert table.loc[("esd", "fid"), "better"] == "yes"
    assert "pruned" not in table.index.get_level_values("against")


def test_what_an_eraser_zeroed_has_a_column_where_one_says_so(groups, tmp_path):
    assert "zeroed" not in style(groups)
    values = fabricated.params(arms=["base", "distill", "esd", "bilevel"], seeds=[0, 1])
    meta = {"esd": {"eraser": {"zeroed": 0.0012}}, "pruned": {"latency_ms": {"dense": {}, "kept": {}}}}
    plan = read_plan(fabricated.experiment(tmp_path, values, count=2, side=8, meta=meta))
    (group,) = plan.groups
    costs = {arm: cost.of(runs) for arm, runs in group.arms.items()}
    table = style([(group, measure(group, 20), costs)])
    assert ours(table)["zeroed"].dropna().to_dict() == {"esd": pytest.approx(0.0012)}
    assert not {"params_kept", "latency_1_ms"} & set(table.columns)
    text = tables.style_text(table)
    column = text.header.index("zeroed")
    assert [row[column][0] for row in text.rows[:4]] == ["–", "–", "0.12 %", "–"]


def test_weights_that_an_eraser_leaves_alone_have_their_parents_size(tmp_path):
    """An eraser at sampling time writes no U-Net."""
    plan = read_plan(fabricated.experiment(tmp_path, fabricated.params(), count=2, side=8))
    runs = plan.groups[0].arms["esd"]
    (runs[0].weights[-1] / "unet" / "pruning.json").unlink()
    found = cost.of(runs)
    assert (found.macs_kept, found.params_kept) == (0.803, 0.79)


def test_what_the_released_code_would_count_is_told_where_the_pruning_tells_it(tmp_path):
    plan = read_plan(fabricated.experiment(tmp_path, fabricated.params(), count=2, side=8))
    runs = plan.groups[0].arms["esd"]
    assert cost.of(runs).macs_released is None  # older than that
    path = runs[0].weights[-1] / "unet" / "pruning.json"
    write_json(path, read_json(path) | {"macs_released": {"dense": 200, "kept": 111}})
    found = cost.of(runs)
    assert (found.macs_kept, found.macs_released) == (0.803, 0.555)
    assert columns.spent(found, 4, 1)["macs_released"] == 0.555


def test_a_difference_that_prints_as_zero_has_no_sign():
    line = {"metric": "ua", "difference": 0.01, "lo": -1.0, "hi": 1.0, "better": ""}
    text = markup.Text([], [])
    columns.add_differences(text, [], [pd.DataFrame([line]), pd.DataFrame([line | {"difference": 0.2}])])
    assert [value for value, _ in text.rows[0]] == ["0.0", "+0.2"]


def test_several_budgets_and_sets_have_rows_of_their_own(tmp_path):
    several = found(tmp_path, budgets=[0.5, 0.8], sets={"one": ["monet"], "two": ["van_gogh", "monet"]})
    table = style(several)
    mine = table[table["source"] == columns.OURS]
    assert len(mine) == 4 * 5
    assert not mine[mine["arm"] != "base"].duplicated(["arm", "set", "keep"]).any()
    text = tables.style_text(table)
    assert text.header[:3] == ["arm", "set", "keep"]
    assert tables.paired_text(tables.paired(several)).header[:2] == ["set", "keep"]


def test_concepts_that_a_set_spares_must_stay(tmp_path):
    """monet is erased; van_gogh, which the experiment knows too, counts among what is kept."""

    def score(arm, seed, table):
        right = np.where(table["set"] == "van_gogh", 0.0, np.where(table["artist"].notna(), 1.0, np.nan))
        return table.assign(shown=right, domain_ok=right, cross_ok=1.0)

    values = fabricated.params(arms=["distill"], sets={"one": ["monet"], "both": ["monet", "van_gogh"]})
    path = fabricated.experiment(tmp_path, values, count=10, side=8, score=score)
    one, both = (measure(group, 50) for group in read_plan(path).groups)
    assert one.estimate("distill", "ira_other").value == pytest.approx(100 * 20 / 30)
    assert both.estimate("distill", "ira_other").value == 100
    assert both.estimate("distill", "ua").value == 50


@pytest.mark.parametrize(
    ("ends", "metric", "word"),
    [
        ((1, 2), "ua", "yes"),
        ((1, 2), "fid", "no"),
        ((-2, -1), "fid", "yes"),
        ((-2, -1), "ua", "no"),
        ((-1, 1), "ua", ""),
    ],
)
def test_sense_of_a_difference(ends, metric, word):
    assert columns.sense(Estimate(sum(ends) / 2, *ends), METRICS[metric]) == word


def test_numbers():
    assert markup.share(0.0012, 2) == "0.12 %" and markup.share(float("nan"), 2) == "–"
    assert markup.number(-0.001, 2) == "0.00"
    assert markup.number(-1.5, 1) == "−1.5"
    assert markup.number(float("nan"), 1) == "–"
    assert markup.interval(float("nan"), 1.0, 1) == ""
