"""The figure of table `attacks`: how the erased concept comes back with the steps of a training that relearns."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lethe.measuring.intervals import Estimate
from lethe.report.curves import LINES, STYLE, colour
from lethe.report.success import BEFORE, Success


def draw(groups: Sequence[Success], path: Path) -> bool:
    """A panel a curve and group, a line a row with its 95 % intervals. False, and nothing drawn, without curves."""
    panels = [(own, name) for own in groups for name in own.victims.curves if any(_lines(own, name).values())]
    if not panels:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        columns = 2 if len(panels) == 4 else min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.8 * columns, 4.0 * rows + 0.6), squeeze=False, sharey=True, layout="constrained"
        )
        for axis, (own, name) in zip(axes.flat, panels, strict=False):
            _panel(axis, own, name, len(groups) > 1)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        lines = {line.get_label(): line for axis in axes.flat for line in axis.get_legend_handles_labels()[0]}
        labels = {"ncols": min(len(lines), 5), "fontsize": 9, "handlelength": 4}  # as long as dashes show
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", **labels)
        figure.savefig(path)
        plt.close(figure)
    return True


def _lines(own: Success, name: str) -> dict[str, dict[int, Estimate]]:
    """Row -> steps -> success, of what was measured; empty where that is no line."""
    lines = {}
    for row in own.victims.group.arms:
        points = {steps: own.estimate(row, label) for steps, label in ({0: BEFORE} | own.victims.curves[name]).items()}
        found = {steps: one for steps, one in points.items() if one is not None}
        lines[row] = found if len(found) > 1 else {}
    return lines


def _panel(axis: Axes, own: Success, name: str, several: bool) -> None:
    arms = {row: runs[0].arm for row, runs in own.victims.group.arms.items()}
    rows = list(arms)
    for row, found in _lines(own, name).items():
        if not found:
            continue
        same = [other for other in rows if arms[other] == arms[row]]  # rows of one arm: its colour, other dashes
        values = [one.value for one in found.values()]
        ends = [
            [max(0.0, one.value - one.lo) for one in found.values()],
            [max(0.0, one.hi - one.value) for one in found.values()],
        ]
        axis.errorbar(
            list(found),
            values,
            ends,
            label=row,
            color=colour(arms[row], list(dict.fromkeys(arms.values()))),
            linestyle=LINES[same.index(row) % len(LINES)],
            marker="o",
            markersize=4,
            linewidth=1.8,
            elinewidth=0.8,
        )
    where = f", {own.victims.group.tag}" if several else ""
    axis.set(title=f"{name.replace('_', ' ')}{where}", xlabel="steps", ylabel="pictures that show the concept, %")
    axis.set_ylim(-3, 103)
