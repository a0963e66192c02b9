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

from lethe.files.errors import UserError
from lethe.files.io import checked
from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import ERASURE, FIDELITY, METRICS, Measured, first_measured
from lethe.measuring.runs import Group, Run
from lethe.report.columns import Found
from lethe.report.plan import Table

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
LOSSES = ("loss", "diff", "out", "feat", "upper", "suppress", "retain")  # columns of log.csv; others are no loss
LEVELS = {
    "gap": "L_ft(θ) − L_ft(ϑ)",
    "cosine": "cosine of the levels' gradients",
    "displacement": "step of the upper level / lower",
}
LINES = ["-", "--", ":", "-."]
AXES_Y = ("cra", "ira_neighbour", "fid", "clip_retain")  # the first three that were measured


def colour(arm: str, arms: Sequence[str]) -> str:
    """One colour an arm, in every figure."""
    spare = [name for name in arms if name not in COLOURS]
    return COLOURS.get(arm) or SPARE[spare.index(arm) % len(SPARE)]


def losses(group: Group, path: Path) -> bool:
    """A panel per trained arm: the losses in its log.csv against the step, thin per seed, thick their mean.

    Below them, if any arm logs them, a small panel each for the gap between the levels, the cosine of their gradients
    and the ratio of their steps. Returns False, and draws nothing, if no arm has a log.
    """
    logs = {arm: found for arm, runs in group.arms.items() if (found := _logs(runs))}
    trained = {arm: found for arm, found in logs.items() if any(name in found[0] for name in LOSSES)}
    levels = [name for name in LEVELS if any(name in found[0] for found in logs.values())]
    if not trained and not levels:
        return False
    with plt.rc_context(STYLE):
        columns = min(3, max(len(trained), len(levels)))
        rows = -(-len(trained) // columns)
        heights = [3.7] * rows + [2.9] * bool(levels)
        figure = plt.figure(figsize=(4.6 * columns, sum(heights)), layout="constrained")
        places = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for position, (arm, tables) in enumerate(trained.items()):
            _losses(figure.add_subplot(places[position // columns, position % columns]), arm, tables)
        for position, name in enumerate(levels):
            _levels(figure.add_subplot(places[rows, position]), name, logs, list(group.arms))
        figure.savefig(path)
        plt.close(figure)
    return True


def _logs(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """The logs of all runs that have weights; [] if one of these has none."""
    found = [_log(run.weights[-1]) for run in runs if run.weights]
    known = [table for table in found if table is not None]
    return known if len(known) == len(found) else []


def _log(folder: Path) -> pd.DataFrame | None:
    """log.csv of a trained model (step, losses...); None if its stage trains nothing."""
    path = folder / "log.csv"
    if not checked(folder, path.name):
        return None
    table = pd.read_csv(path)
    if "step" not in table:
        raise UserError(f"{path}: no column 'step'; delete the folder and train again")
    return table


def _losses(axis: Axes, arm: str, tables: list[pd.DataFrame]) -> None:
    names = [name for name in LOSSES if name in tables[0]]
    palette = [*COLOURS.values(), *SPARE]
    for position, name in enumerate(names):
        _curve(axis, tables, name, palette[position + 1], name)
    values = np.concatenate([table[names].to_numpy(float).ravel() for table in tables])
    if np.nanmin(values) > 0:
        axis.set_yscale("log")
    axis.set(title=arm, xlabel="step", ylabel="loss")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
    axis.legend(fontsize=9, ncols=min(len(names), 5), columnspacing=1.0, handlelength=1.2, **below)


def _levels(axis: Axes, name: str, logs: dict[str, list[pd.DataFrame]], arms: Sequence[str]) -> None:
    """One quantity of the two levels, a line an arm that logs it."""
    for arm, tables in logs.items():
        if name in tables[0]:
            _curve(axis, tables, name, colour(arm, arms), arm)
    if name != "displacement":
        axis.axhline(0, color="#5b6675", linewidth=0.8)
    axis.set(title=name, xlabel="step", ylabel=LEVELS[name])
    axis.yaxis.label.set_fontsize(9)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=9)


def _curve(axis: Axes, tables: list[pd.DataFrame], name: str, tint: str, label: str) -> None:
    """Thin per training seed, thick their mean."""
    curves = [table[["step", name]].dropna().set_index("step")[name] for table in tables]
    for curve in curves:
        axis.plot(curve.index, curve, color=tint, alpha=0.22, linewidth=0.8)
    mean = pd.concat(curves, axis=1).mean(axis=1)
    axis.plot(mean.index, mean, color=tint, linewidth=1.8, label=label)


def iterations(table: Table, found: Sequence[Found], path: Path) -> bool:
    """FID, or what else stands for fidelity, against an axis `iterations`: a line per arm and other labels.

    A panel a set, a dash style a budget. Returns False, and draws nothing, without such an axis of whole numbers.
    """
    name = first_measured([measured for _, measured, _ in found], FIDELITY)
    if name is None or not all(label.isdecimal() for label in table.axes.get("iterations", ("",))):
        return False
    sets = list(dict.fromkeys(group.set for group, _, _ in found))
    budgets = list(dict.fromkeys(group.budget for group, _, _ in found))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(sets), figsize=(6.4 * len(sets), 4.8), squeeze=False, layout="constrained")
        for group, measured, _ in found:
            axis = axes.flat[sets.index(group.set)]
            _iterations(axis, table, group, measured, name, LINES[budgets.index(group.budget) % len(LINES)])
            axis.set_title(group.set.replace("_", " ") if len(sets) > 1 else "")
        lines = dict(zip(*reversed(axes.flat[0].get_legend_handles_labels()), strict=True))
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(3, len(lines)), fontsize=10)
        figure.savefig(path)
        plt.close(figure)
    return True


def _iterations(axis: Axes, table: Table, group: Group, measured: Measured, name: str, dashes: str) -> None:
    lines: dict[str, list[tuple[int, Estimate]]] = {}
    for row in group.own:
        run, found = group.arms[row][0], measured.estimate(row, name)
        others = [label for other, label in run.labels.items() if other != "iterations"]
        words = [*([run.arm] if len(table.arms) > 1 or not others else []), *others]
        if found:
            lines.setdefault(" ".join(words), []).append((int(run.labels["iterations"]), found))
    palette = [COLOURS["distill"], COLOURS["bilevel"], COLOURS["esd"], *SPARE]
    for position, (line, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        steps, values = [step for step, _ in points], [found.value for _, found in points]
        bars = np.array([_bar(found) for _, found in points])[:, :, 0].T
        axis.errorbar(
            steps, values, yerr=bars, fmt="o", linestyle=dashes, color=palette[position % len(palette)],
            markersize=5, capsize=3, linewidth=1.6, label=f"{line}, {100 * group.budget:g} %",
        )  # fmt: skip
    better = "higher" if METRICS[name].up else "lower"
    axis.set(xlabel="iterations", ylabel=f"{METRICS[name].label} ({better} is better)")
    axis.set_xticks(sorted(map(int, table.axes["iterations"])))
    values = [found.value for points in lines.values() for _, found in points]
    if name == "fid" and values and max(values) > 4 * min(values):
        _log_scale(axis)


def tradeoff(group: Group, measured: Measured, path: Path) -> bool:
    """Erasure to the right, what must stay upwards, a point with both intervals per arm.

    Axes are turned so that right and up are better. Returns False if the arms lack the metrics.
    """
    x = next((name for name in ERASURE if measured.estimate("distill", name)), None)
    ys = [name for name in AXES_Y if measured.estimate("distill", name)][:3]
    if x is None or not ys:
        return False
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(ys), figsize=(4.9 * len(ys), 4.2), squeeze=False, layout="constrained")
        for axis, y in zip(axes.flat, ys, strict=True):
            _points(axis, group, measured, x, y)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * len(ys)))
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
        _log_scale(axis, "symlog" if y == "kid" else "log")
    axis.set_title(f"{METRICS[y].label} against {METRICS[x].label}")


def _log_scale(axis: Axes, scale: str = "log") -> None:
    axis.set_yscale(scale)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _bar(found: Estimate) -> list[list[float]]:
    return [[max(0.0, found.value - found.lo)], [max(0.0, found.hi - found.value)]]
