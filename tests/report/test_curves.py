import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from lethe.report import curves
from lethe.report.columns import measured
from lethe.report.reading import read_plan


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were drawn; they stay open, to be looked into."""
    made = []
    monkeypatch.setattr(plt, "close", made.append)
    yield made
    monkeypatch.undo()
    plt.close("all")


def lines(axis) -> dict:
    """Label -> line, of those that have one."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_only_losses_stand_in_loss_panels(plan_path, tmp_path, drawn):
    (group,) = read_plan(plan_path).groups
    assert curves.losses(group, tmp_path / "training.png")
    panels = {axis.get_title(loc="left"): axis for axis in drawn[0].axes}
    assert list(panels) == ["distill", "esd", "bilevel", "gap", "cosine", "displacement"]
    assert list(lines(panels["bilevel"])) == ["loss", "diff", "out", "feat", "upper"]
    assert list(lines(panels["esd"])) == ["loss"]
    for name in ("gap", "cosine", "displacement"):
        assert list(lines(panels[name])) == ["bilevel"]
    log = pd.read_csv(group.arms["bilevel"][0].weights[-1] / "log.csv").dropna()
    line = lines(panels["gap"])["bilevel"]
    assert line.get_xdata().tolist() == log["step"].tolist()
    assert line.get_ydata() == pytest.approx(log["gap"].to_numpy())
    assert panels["cosine"].get_position().y1 < panels["bilevel"].get_position().y0


def test_without_a_log_there_is_no_picture(plan_path, tmp_path):
    (group,) = read_plan(plan_path).groups
    for arm in ("distill", "esd", "bilevel"):
        del group.arms[arm]
    assert not curves.losses(group, tmp_path / "training.png") and not (tmp_path / "training.png").exists()


def test_a_line_for_each_loss_and_budget(tables_path, tmp_path, drawn):
    table = next(table for table in read_plan(tables_path).tables if table.name == "distillation")
    found = measured(table.groups, 100)
    assert curves.iterations(table, found, tmp_path / "distillation.png")
    (axis,) = drawn[0].axes
    names = [bars.get_label() for bars in axis.containers]
    assert names == ["both, 55 %", "diffusion, 55 %", "both, 80 %", "diffusion, 80 %"]
    line, _, bars = axis.containers[3]
    assert line.get_xdata().tolist() == [9, 60]  # by number, not in the order of the labels
    assert line.get_ydata().tolist() == pytest.approx([160, 40])
    (low, high), _ = [segment[:, 1] for segment in bars[0].get_segments()]
    estimate = found[1][1].estimate("distill diffusion 9", "fid")
    assert (low, high) == pytest.approx((estimate.lo, estimate.hi))
    assert axis.containers[0][0].get_linestyle() != line.get_linestyle()
    assert axis.get_yscale() == "log"
    with Image.open(tmp_path / "distillation.png") as picture:
        picture.verify()


def test_other_tables_have_no_such_curve(tables_path, tmp_path):
    for table in read_plan(tables_path).tables:
        if table.name != "distillation":
            assert not curves.iterations(table, measured(table.groups, 20), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_twelve_arms_have_twelve_colours():
    arms = [*curves.COLOURS, "uce", "conceptprune", "concept_ablation", "salun", "fmn", "sld", "safree"]
    assert len({curves.colour(arm, arms) for arm in arms}) == 12
