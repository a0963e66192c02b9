import pytest

from lethe.measuring.intervals import Estimate
from lethe.measuring.measures import measure
from lethe.report import cost
from lethe.report.claims import CONTRADICTED, SHOWN, UNMEASURED, UNSETTLED, judge, not_above, one_sided, overall
from lethe.report.reading import read_plan
from tests import fabricated


@pytest.mark.parametrize(
    ("lo", "hi", "up", "verdict"),
    [
        (1, 3, True, SHOWN),
        (1, 3, False, CONTRADICTED),
        (-3, -1, False, SHOWN),
        (-3, -1, True, CONTRADICTED),
        (-1, 1, True, UNSETTLED),
        (0, 1, True, UNSETTLED),
    ],
)
def test_a_direction(lo, hi, up, verdict):
    assert one_sided(Estimate(2, lo, hi), up) == verdict


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [(-9, 0.9, SHOWN), (0.2, 1.0, SHOWN), (0.9, 1.1, UNSETTLED), (1.1, 2, CONTRADICTED)],
)
def test_a_margin(lo, hi, verdict):
    assert not_above(Estimate(0, lo, hi), 1.0) == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([SHOWN, SHOWN], SHOWN),
        ([SHOWN, UNSETTLED], UNSETTLED),
        ([SHOWN, UNMEASURED], UNSETTLED),
        ([SHOWN, UNSETTLED, CONTRADICTED], CONTRADICTED),
        ([UNMEASURED], UNMEASURED),
        ([], UNMEASURED),
    ],
)
def test_parts_make_a_claim(parts, verdict):
    assert overall(parts) == verdict


def test_what_is_missing_is_not_measured():
    assert one_sided(None, True) == not_above(None, 1.0) == UNMEASURED


def judged(tmp_path, fid, **grid):
    path = fabricated.experiment(tmp_path, fabricated.params(**grid), count=40, side=8, fid=fid)
    (group,) = read_plan(path).groups
    return judge(group, measure(group, 300), {arm: cost.of(runs) for arm, runs in group.arms.items()})


FID = {"pruned": (90.0, 2.0), "distill": (20.0, 0.2), "esd": (30.0, 1.0)}


def test_a_run_that_shows_all_three(tmp_path):
    claims = judged(tmp_path, FID | {"bilevel": (20.1, 0.2)})
    assert [claim.verdict for claim in claims] == [SHOWN, SHOWN, SHOWN]
    assert "bilevel FID 20.10, esd FID 30.00; difference −9.90" in claims[1].parts[1].text
    assert "1.00 × the counted network passes of distill + esd" in claims[2].parts[-1].text


def test_a_worse_fid_contradicts_claim_three(tmp_path):
    claims = judged(tmp_path, FID | {"bilevel": (35.0, 1.0)})
    assert [claim.verdict for claim in claims] == [SHOWN, CONTRADICTED, CONTRADICTED]
    assert [part.verdict for part in claims[2].parts] == [SHOWN, CONTRADICTED, SHOWN]


def test_a_wide_interval_settles_nothing(tmp_path):
    claims = judged(tmp_path, FID | {"bilevel": (20.1, 5.0)})
    assert [part.verdict for part in claims[2].parts] == [SHOWN, UNSETTLED, SHOWN]
    assert claims[2].verdict == UNSETTLED


def test_without_a_two_stage_arm_claims_two_and_three_are_not_measured(tmp_path):
    claims = judged(tmp_path, FID, arms=["distill", "bilevel"])
    assert [claim.verdict for claim in claims] == [UNMEASURED] * 3
