"""What a row cost and takes, from the meta.json of its chain and of its samples."""

import pytest

from lethe.report import cost, tables, varied
from lethe.report.columns import measured
from lethe.report.reading import read_plan
from lethe.report.tables import PUBLISHED
from tests import fabricated

UNET = {
    "bytes": 3 * 2**20,
    "latency_ms": {"float32": {"1": 10.0, "8": 60.0}, "int4": {"1": 11.0, "8": 61.0}},
    "threads": 1,
}
PRUNED = {"latency_ms": {"dense": {"1": 30.0, "8": 200.0}, "kept": {"1": 25.0, "8": 160.0}}}
DEPLOYED = {"as_is": {}, "int4": {"sample.precision": "int4"}, "few": {"sample.steps": 4}}


def planned(tmp_path, *, told: dict | None = None, pruned: dict | None = None, seeds=(0,)):
    """A table of four arms drawn in three ways; `told`: what all samples tell of their U-Net."""
    values = fabricated.params(seeds=list(seeds))
    values["tables"] = {
        "deployment": fabricated.table(["base", "distill", "esd", "bilevel"], {"drawn": DEPLOYED}),
    }
    meta = {"samples": {"unet": told, "peak_memory_mb": 900} if told else {}, "pruned": pruned or {}}
    meta |= {"distill": {"peak_memory_mb": 1300}, "esd": {"peak_memory_mb": 700}}
    return read_plan(fabricated.experiment(tmp_path, values, count=2, side=8, meta=meta))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    plan = planned(tmp_path_factory.mktemp("cost"), told=UNET, pruned=PRUNED, seeds=(0, 1))
    (table,) = plan.tables
    found = measured(table.groups, 50)
    return plan, table, found, varied.frame(table, found)


def test_rows_of_other_pictures_share_weights_and_have_their_own_costs(rows):
    _, _, found, frame = rows
    (group, _, _), own = found[0], frame[frame["reference"].isna()].set_index(["arm", "drawn"])
    assert group.arms["bilevel int4"][0].weights == group.arms["bilevel as_is"][0].weights
    assert group.arms["bilevel int4"][0].samples != group.arms["bilevel as_is"][0].samples
    assert own.loc[("bilevel", "as_is"), ["latency_1_ms", "latency_8_ms"]].tolist() == [10, 60]
    assert own.loc[("bilevel", "int4"), ["latency_1_ms", "latency_8_ms"]].tolist() == [11, 61]
    assert own.loc[("bilevel", "int4"), "latency_ratio"] == pytest.approx(61 / 60)
    assert own["latency_ratio"].notna().sum() == 4  # float32 is no ratio to itself
    assert own["weights_mb"].tolist() == [3] * 12
    assert own.xs("distill")["draw_passes"].tolist() == [40, 40, 8]
    assert own["draw_mb"].tolist() == [900] * 12
    assert own.loc[("esd", "int4"), "train_mb"] == 1300  # of the stage that needed most
    assert own.xs("base")["train_mb"].isna().all() and own.xs("base")["gpu_seconds"].tolist() == [0] * 3
    assert own.xs("base")["keep"].tolist() == [1] * 3 and own.xs("base")["n_seeds"].tolist() == [1] * 3
    for arm in ("distill", "esd", "bilevel"):
        assert own.loc[arm, "gpu_seconds"].nunique() == own.loc[arm, "budget"].nunique() == 1


def test_what_deployment_takes_is_printed_in_the_table_and_in_the_csv_of_style(rows):
    plan, table, found, frame = rows
    header = varied.text(table, frame, found).header
    printed = ["params kept", "MB", "ms at 1", "ms at 8", "of float32's", "per picture", "MB to draw", "MB to train"]
    assert [name for name in header if name in printed] == printed
    style = tables.style(measured(plan.groups, 50), PUBLISHED / "style.csv")
    assert {"weights_mb", "latency_1_ms", "draw_passes", "draw_mb", "train_mb"} <= set(style.columns)
    assert not set(printed) & set(tables.style_text(style).header)


def test_every_row_is_compared_with_the_first_of_its_arm(rows):
    _, table, found, _ = rows
    lines = varied.paired(table, found)
    assert set(lines["against"]) == {"as_is"} and set(lines["drawn"]) == {"int4", "few"}
    assert set(lines["arm"]) == {"base", "distill", "esd", "bilevel"}


def test_older_samples_have_the_latency_that_the_stage_prune_measured_in_float32(tmp_path):
    plan = planned(tmp_path, pruned=PRUNED)
    frame = varied.frame(plan.tables[0], measured(plan.tables[0].groups, 20))
    own = frame[frame["reference"].isna()].set_index(["arm", "drawn"])["latency_1_ms"]
    assert own["base"].tolist()[::2] == [30, 30] and own["bilevel"].tolist()[::2] == [25, 25]
    assert own.xs("int4", level="drawn").isna().all()
    assert not {"weights_mb", "draw_mb"} & set(frame.columns)


def test_latency_is_the_median_over_the_training_seeds(tmp_path):
    plan = planned(tmp_path, told=UNET, seeds=(0, 1, 2))
    runs = plan.groups[0].arms["bilevel"]
    for run, milliseconds in zip(runs, (9.0, 50.0, 12.0), strict=True):
        times = UNET["latency_ms"] | {"float32": {"1": milliseconds, "8": 60.0}}
        fabricated.edit(run.samples / "meta.json", lambda meta, t=times: meta.update(unet=UNET | {"latency_ms": t}))
    assert cost.of(runs).forward_ms(None) == {"1": 12.0, "8": 60.0}


def test_pictures_cut_from_the_last_tile_are_no_pictures_cost(tmp_path):
    plan = planned(tmp_path)
    run = plan.groups[0].arms["distill"][0]
    change = {"options": {"tile": 16, "precision": "float32"}, "pictures": 20, "budget": {"student_forward": 32 * 6}}
    fabricated.edit(run.samples / "meta.json", lambda meta: meta.update(change))
    assert cost.of([run]).draw_passes == 6
