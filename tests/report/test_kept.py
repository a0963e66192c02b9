"""Table `kept`: what must stay, for the grid's arms and for the rows of each table of the plan; and headings that name
the network of a number."""

import numpy as np
import pandas as pd
import pytest

from lethe.files.io import write_json
from lethe.measuring.measures import METRICS, of_tables
from lethe.report import columns, tables, varied
from lethe.report.build import build
from lethe.report.columns import measured
from lethe.report.reading import read_plan
from tests import fabricated

LEVEL = {"distill": 50.0, "esd": 40.0, "bilevel": 45.0, "bilevel b": 20.0}  # of kept pictures' CLIP and CSD


def score(row, seed, table):
    """Kept rows: CLIP and CSD at the row's level, 4 more for neighbours; CP is 1 on every second of them."""
    found = fabricated.scored(row, seed, table)
    kept = found["set"].eq("retain").to_numpy()
    near = kept & found["artist"].isin(["munch", "cassatt"]).to_numpy()
    value = LEVEL.get(row, 30.0) + 4 * near
    found.loc[kept, ["clip", "csd"]] = np.stack([value, value], 1)[kept]
    found.loc[kept, "cp"] = 0.0 if row == "distill" else (found["case_number"][kept] % 2).astype(float)
    return found


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    values = fabricated.params(arms=["distill", "esd", "bilevel"])
    values["tables"] = {"one": fabricated.table(["bilevel"], {"lr": {"a": {}, "b": {"bilevel.upper_lr": 1.0e-5}}})}
    path = fabricated.experiment(tmp_path_factory.mktemp("kept"), values, count=12, side=8, score=score)
    for run in read_plan(path).runs:
        own = {"protocol": {"model": "local-dir:models/a/judges/clip"}}
        write_json(run.metrics / "metrics.json", {"clip": own, "clip_near": own})
        fabricated.signed(run.metrics)
    return read_plan(path)


def values_of(row, near):
    return LEVEL[row] + 4 * near


def test_neighbours_and_others_are_told_apart(plan):
    found = measured(plan.groups, 50, "kept")
    frame = tables.of_kind(found, tables.Path("no such file"), "kept").set_index("arm")
    for row in ("distill", "esd", "bilevel"):
        assert frame.loc[row, "clip_near"] == pytest.approx(values_of(row, 1))
        assert frame.loc[row, "clip_other"] == pytest.approx(values_of(row, 0))
        assert frame.loc[row, "csd_near"] == pytest.approx(100 * values_of(row, 1) / 54)
        assert frame.loc[row, "csd_other"] == pytest.approx(100 * values_of(row, 0) / 50)
    ((group, _, _),) = found
    kept = group.arms["esd"][0].scores.loc["retain"]
    assert frame.loc["esd", "ira"] == pytest.approx(100 * kept["domain_ok"].mean())
    near = kept["artist"].isin(["munch", "cassatt"])
    assert frame.loc["esd", "cp_near"] == pytest.approx(100 * kept["cp"][near].mean())
    assert frame.loc["esd", "cp_other"] == pytest.approx(100 * kept["cp"][~near].mean())
    assert frame.loc["distill", ["cp_near", "cp_near_hi"]].tolist() == [0, 0]  # so by definition
    assert not {"clip", "fid", "ua", "content_target"} & set(frame.columns)


def test_rows_of_a_table_have_it_too(plan, tmp_path):
    (table,) = plan.tables
    frame = varied.frame(table, measured(table.groups, 50), kept=True)
    own = frame[frame["reference"].isna()].set_index("lr")
    assert own.loc["b", "clip_near"] == pytest.approx(24) and own.loc["b", "csd_other"] == pytest.approx(40)
    lines = varied.paired(table, measured(table.groups, 50)).set_index("metric")
    assert lines.loc["clip_near", "difference"] == pytest.approx(24 - 49)  # "a" changes nothing: it is the grid's
    assert lines.loc["clip_near", "better"] == "no"
    text = varied.paired_text(table, lines.reset_index())
    assert "IRA near ↑" in text.header and "CLIP near ↑" not in text.header
    build(plan, tmp_path / "out", 20, 1)
    written = pd.read_csv(tmp_path / "out" / "tables" / "one_kept.csv")
    assert written.loc[written["lr"] == "b", "clip_near"].item() == pytest.approx(24)
    assert (tmp_path / "out" / "index.html").read_text().count("What must stay</summary>") == 1


def test_a_heading_names_the_network_of_a_clip_score(plan):
    found = measured(plan.groups, 20, "style")
    names = {metric.name: metric.header for metric in columns.columns_of(found, ("style", "kept"))}
    assert names["clip"] == "CLIP (judges/clip) ↓" and names["clip_near"] == "CLIP near (judges/clip) ↑"
    assert names["clip_other"] == "CLIP other ↑"  # whose record does not tell
    assert names["fid"] == "FID ↓"
    told = METRICS["clip"].told([{"model": "ViT-B-32-quickgelu@openai"}, {"model": "ViT-B-32-quickgelu@openai"}, {}])
    assert told.header == "CLIP (ViT-B-32-quickgelu@openai) ↓" and told.key == "clip"


def test_the_table_has_what_must_stay_alone():
    assert {metric.rows for metric in of_tables("kept")} == {"near", "other", "retain"}
    assert {"ira", "ira_neighbour", "ira_other", "cra", "clip_near", "cp_other"} <= {m.name for m in of_tables("kept")}
    assert not {"clip_near", "ira"} & {metric.name for metric in of_tables("style")}
