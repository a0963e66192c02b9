"""What this run says of the paper's claims 1 to 3: rules over differences and their 95 % intervals.

A claim is a list of parts. Each part is one comparison with a rule that was fixed before any number was seen:
the whole interval on the claimed side is "shown", the whole interval on the other side is "contradicted", anything
else is "not settled". A claim is contradicted if a part is, shown if all its parts are, and not settled otherwise; a
claim without a part whose arms and metrics were measured is "not measured".
"""

from dataclasses import dataclass

from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import ERASURE, FIDELITY, METRICS, Measured
from lethe.measuring.runs import Group
from lethe.report.cost import Cost
from lethe.report.markup import interval, number

SHOWN, CONTRADICTED, UNSETTLED, UNMEASURED = "shown", "contradicted", "not settled", "not measured"
FID_MARGIN = 0.05  # "at the FID of": the whole interval of the difference within 5 % of distill's FID
COST_MARGIN = 0.10  # "for the same cost": counted passes no more than 10 % above


@dataclass(frozen=True)
class Part:
    """One comparison: its sentence, with the numbers in it, and its verdict."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    number: int
    title: str
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> str:
        return overall([part.verdict for part in self.parts])


def overall(verdicts: list[str]) -> str:
    """The verdict on a claim from those on its parts."""
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    if not verdicts or set(verdicts) == {UNMEASURED}:
        return UNMEASURED
    return SHOWN if set(verdicts) == {SHOWN} else UNSETTLED


def one_sided(found: Estimate | None, up: bool) -> str:
    """Is the difference an improvement? `up` tells the good side."""
    if found is None:
        return UNMEASURED
    lo, hi = (found.lo, found.hi) if up else (-found.hi, -found.lo)
    return SHOWN if lo > 0 else CONTRADICTED if hi < 0 else UNSETTLED


def not_above(found: Estimate | None, margin: float) -> str:
    """Is the difference below a margin, as a whole? ("at the FID of", "for the same cost")"""
    if found is None:
        return UNMEASURED
    return SHOWN if found.hi <= margin else CONTRADICTED if found.lo > margin else UNSETTLED


def judge(group: Group, measured: Measured, costs: dict[str, Cost]) -> list[Claim]:
    """Claims 1 to 3 of the paper on one budget and set."""
    return [_healing(group, measured), _two_stages(group, measured), _bilevel(group, measured, costs)]


def _healing(group: Group, measured: Measured) -> Claim:
    parts = []
    if "pruned" in group.arms:
        parts.append(
            _part(measured, "distill", "pruned", _first(measured, FIDELITY), "Distilling heals the pruned model")
        )
        metric = _first(measured, ERASURE)
        if metric:
            found = measured.difference("distill", "pruned", metric)
            levels = ", ".join(
                _level(measured, arm, metric) for arm in ("base", "pruned", "distill") if arm in group.arms
            )
            text = "It brings back the concepts to be erased, which the fine-tuning pictures are said to lack"
            verdict = one_sided(found, not METRICS[metric].up)  # here a *less* erased concept is the good side
            parts.append(Part(f"{text}: {levels}; {_shown(found, metric)}.", verdict))
    title = "Distilling heals a pruned model, and brings back concepts that the fine-tuning pictures lack"
    return Claim(1, title, tuple(parts))


def _two_stages(group: Group, measured: Measured) -> Claim:
    parts = []
    for arm in group.two_stage if "bilevel" in group.arms else []:
        for metric in (_first(measured, ERASURE), _first(measured, FIDELITY)):
            parts.append(_part(measured, "bilevel", arm, metric, f"Bilevel against {arm}"))
    title = "Fine-tuning first and erasing afterwards is worse for both goals, erasure and fidelity"
    return Claim(2, title, tuple(parts))


def _bilevel(group: Group, measured: Measured, costs: dict[str, Cost]) -> Claim:
    parts = []
    if "bilevel" in group.arms and group.two_stage:
        erasure = _first(measured, ERASURE)
        parts = [_part(measured, "bilevel", arm, erasure, f"Bilevel erases more than {arm}") for arm in group.two_stage]
        parts.append(_same_fid(measured))
        parts += [_same_cost(costs, arm) for arm in group.two_stage]
    title = "One bilevel run erases more than every two-stage arm, at the FID of the distilled model, for the same cost"
    return Claim(3, title, tuple(parts))


def _same_fid(measured: Measured) -> Part:
    found, reference = measured.difference("bilevel", "distill", "fid"), measured.estimate("distill", "fid")
    if found is None or reference is None:
        return Part("FID of bilevel and distill: not measured.", UNMEASURED)
    margin = FID_MARGIN * reference.value
    level = f"{number(reference.value, 2)} within {100 * FID_MARGIN:.0f} % (±{number(margin, 2)})"
    text = f"Bilevel keeps distill's FID of {level}"
    return Part(f"{text}: {_shown(found, 'fid')}.", not_above(found, margin))


def _same_cost(costs: dict[str, Cost], arm: str) -> Part:
    ours, theirs = costs["bilevel"].passes, costs[arm].passes
    if not theirs:
        return Part(f"Cost of bilevel and {arm}: not counted.", UNMEASURED)
    text = f"Bilevel costs {ours / theirs:.2f} × the counted network passes of distill + {arm}"
    seconds = f"{costs['bilevel'].seconds:,.0f} s against {costs[arm].seconds:,.0f} s"
    return Part(f"{text} ({seconds}).", SHOWN if ours <= (1 + COST_MARGIN) * theirs else CONTRADICTED)


def _part(measured: Measured, arm: str, other: str, metric: str | None, text: str) -> Part:
    found = measured.difference(arm, other, metric) if metric else None
    if metric is None or found is None:
        return Part(f"{text}: not measured.", UNMEASURED)
    levels = f"{_level(measured, arm, metric)}, {_level(measured, other, metric)}"
    return Part(f"{text}: {levels}; {_shown(found, metric)}.", one_sided(found, METRICS[metric].up))


def _first(measured: Measured, names: tuple[str, ...]) -> str | None:
    """The first metric that the distilled model has."""
    return next((name for name in names if measured.estimate("distill", name) is not None), None)


def _level(measured: Measured, arm: str, metric: str) -> str:
    found = measured.estimate(arm, metric)
    return f"{arm} {METRICS[metric].label} {_value(found, metric)}"


def _value(found: Estimate | None, metric: str) -> str:
    return number(found.value if found else None, METRICS[metric].digits)


def _shown(found: Estimate | None, metric: str) -> str:
    if found is None:
        return "not measured"
    digits = METRICS[metric].digits
    sign = "+" if found.value > 0 else ""
    return f"difference {sign}{number(found.value, digits)} {interval(found.lo, found.hi, digits)}".rstrip()
