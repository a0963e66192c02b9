"""Curves: training losses, and what erasing costs in what must stay."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from lethe.errors import UserError
from lethe.report.intervals import Estimate
from lethe.report.measures import METRICS, Measured
from lethe.report.runs import Group

# Okabe and Ito's colours, told apart by colour-blind readers; an arm without one takes the next of SPARE.
COLOURS = {"base": "#5b6675", "pruned": "#a6761d", "distill": "#0072b2", "bilevel": "#d55e00", "esd": "#009e73"}
SPARE = ["#cc79a7", "#56b4e9", "#e69f00", "#7570b3", "#000000", "#66a61e", "#a50026", "#1b7837", "#8c510a", "#35978f"]
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6675",
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "lethe",
}
AXES_X = ("ua", "csd", "clip")
AXES_Y = ("cra", "ira_neighbour", "fid", "clip_retain")  # the first three that were measured


def colour(arm: str, arms: Sequence[str]) -> str:
    """One colour an arm, in every figure."""
    spare = [name for name in arms if name not in COLOURS]
    return COLOURS.get(arm) or SPARE[spare.index(arm) % len(SPARE)]


def losses(group: Group, path: Path) -> bool:
    """A panel per trained arm: every column of its log.csv against the step, thin per seed, thick their mean.

    Returns False, and draws nothing, if no arm has a log.
    """
    logs = {arm: [_log(run.weights[-1]) for run in runs if run.weights] for arm, runs in group.arms.items()}
    logs = {arm: found for arm, found in logs.items() if found and all(table is not None for table in found)}
    if not logs:
        return False
    with plt.rc_context(STYLE):
        columns = min(3, len(logs))
        rows = -(-len(logs) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.6 * columns, 3.7 * rows), squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(logs) :]:
            axis.remove()
        for axis, (arm, tables) in zip(axes.flat, logs.items(), strict=False):
            _losses(axis, arm, tables)
        figure.savefig(path)
        plt.close(figure)
    return True


def _log(folder: Path) -> pd.DataFrame | None:
    """log.csv of a trained model (step, losses...); None if its stage trains nothing."""
    path = folder / "log.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    if "step" not in table:
        raise UserError(f"{path}: no column 'step'; delete the folder and train again")
    return table


def _losses(axis: Axes, arm: str, tables: list[pd.DataFrame]) -> None:
    names = [name for name in tables[0].columns if name != "step" and not name.startswith("lr")]
    palette = [*COLOURS.values(), *SPARE]
    for position, name in enumerate(names):
        curves = [table[["step", name]].dropna().set_index("step")[name] for table in tables]
        for curve in curves:
            axis.plot(curve.index, curve, color=palette[position + 1], alpha=0.22, linewidth=0.8)
        mean = pd.concat(curves, axis=1).mean(axis=1)
        axis.plot(mean.index, mean, color=palette[position + 1], linewidth=1.8, label=name)
    values = np.concatenate([table[names].to_numpy(float).ravel() for table in tables])
    if np.nanmin(values) > 0:
        axis.set_yscale("log")
    axis.set(title=arm, xlabel="step", ylabel="loss")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
    axis.legend(fontsize=9, ncols=len(names), columnspacing=1.0, handlelength=1.2, **below)


def tradeoff(group: Group, measured: Measured, path: Path) -> bool:
    """Erasure to the right, what must stay upwards, a point with both intervals per arm.

    Axes are turned so that right and up are better. Returns False if the arms lack the metrics.
    """
    x = next((name for name in AXES_X if measured.estimate("distill", name)), None)
    ys = [name for name in AXES_Y if measured.estimate("distill", name)][:3]
    if x is None or not ys:
        return False
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(ys), figsize=(4.9 * len(ys), 4.2), squeeze=False, layout="constrained")
        for axis, y in zip(axes.flat, ys, strict=True):
            _points(axis, group, measured, x, y)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(path)
        plt.close(figure)
    return True


def _points(axis: Axes, group: Group, measured: Measured, x: str, y: str) -> None:
    for arm in group.arms:
        a, b = measured.estimate(arm, x), measured.estimate(arm, y)
        if a is None or b is None:
            continue
        marker = "D" if arm == "bilevel" else "o" if arm in group.erasing else "s"
        axis.errorbar(
            a.value, b.value, xerr=_bar(a), yerr=_bar(b), fmt=marker, color=colour(arm, list(group.arms)),
            markersize=8, capsize=3, linewidth=1.4, label=arm,
        )  # fmt: skip
    for name, set_label, invert in ((x, axis.set_xlabel, axis.invert_xaxis), (y, axis.set_ylabel, axis.invert_yaxis)):
        set_label(f"{METRICS[name].label} ({'higher' if METRICS[name].up else 'lower, axis turned'} is better)")
        if not METRICS[name].up:
            invert()
    if y in ("fid", "kid"):  # the pruned model's is many times the others'
        axis.set_yscale("symlog" if y == "kid" else "log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_title(f"{METRICS[y].label} against {METRICS[x].label}")


def _bar(found: Estimate) -> list[list[float]]:
    return [[max(0.0, found.value - found.lo)], [max(0.0, found.hi - found.value)]]
