"""summary.json: the numbers of the tables, for `dvc metrics diff`."""

from collections.abc import Sequence

from lethe.measuring.measures import BY_CONCEPT, Measured, measure
from lethe.report import varied
from lethe.report.columns import Found


def of_grid(found: Sequence[Found], resamples: int) -> dict:
    """arm > concept > metric > value; "all" is the mean over the concepts.

    With several budgets or sets the arm's name carries them: "esd-b080-all".
    """
    made: dict[str, dict[str, dict[str, float]]] = {}
    names = [metric.name for metric in varied.every(found)]
    own = [name for name in names if name.partition(":")[0] in BY_CONCEPT]
    for group, measured, costs in found:
        alone = {name: measure(group, resamples, [name]) for name in group.members} if len(group.members) > 1 else {}
        for arm in group.arms:
            views = {"all": _values(measured, arm, names) | {"budget": costs[arm].passes}}
            views |= {name: _values(one, arm, own) for name, one in alone.items()}
            made[arm if len(found) == 1 else f"{arm}-{group.tag}"] = views
    return made


def of_table(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    """The same for a table of the plan: row > metric > value."""
    made = {}
    names = [metric.name for metric in varied.every(found)]
    for group, own, costs in found:
        for row in group.own:
            name = row if len(found) == 1 else f"{row} {group.tag}"
            made[name] = _values(own, row, names) | {"budget": costs[row].passes}
    return made


def _values(measured: Measured, arm: str, names: Sequence[str]) -> dict[str, float]:
    estimates = {name: measured.estimate(arm, name) for name in names}
    return {name: float(f"{one.value:.6g}") for name, one in estimates.items() if one is not None}
