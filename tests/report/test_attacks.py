import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lethe.files.errors import UserError
from lethe.measuring.intervals import at_the_end
from lethe.report import attacks, build, relearning, success
from lethe.report.reading import read_plan
from tests import fabricated

FEW = {"attack": "relearn", "source": "concepts", "count": 2, "rank": None, "steps": 50, "batch": 2, "lr": 1.0e-4}
TRIED = {
    "finish": {"attack": "completion", "strength": 0.5, "text": "empty"},
    "few_50": FEW,
    "few_200": FEW | {"steps": 200},
    "leak": {"attack": "mask_leak", "estimate": "dense", "rank": 1, "rounds": 1, "scale": 1.0},
}
COUNT = 8  # prompts of a concept under attack, of 12
# of these prompts, how many show the concept: van_gogh's, monet's
SHOWN = {
    "distill": (8, 8),
    "distill under finish": (8, 8),
    "distill under few_50": (8, 7),
    "distill under few_200": (8, 8),
    "esd": (1, 0),
    "esd under finish": (6, 4),
    "esd under few_50": (2, 2),
    "esd under few_200": (8, 6),
    "bilevel": (0, 0),
    "bilevel under finish": (2, 1),
    "bilevel under few_50": (0, 0),
    "bilevel under few_200": (1, 0),
    "bilevel ours": (0, 0),
    "bilevel ours under finish": (0, 0),
    "bilevel ours under few_50": (0, 0),
    "bilevel ours under few_200": (0, 0),
}


def score(row, seed, table):
    found = fabricated.scored(row, seed, table)
    for name, count in zip(("van_gogh", "monet"), SHOWN.get(row, (8, 8)), strict=True):
        own = found["set"] == name
        found.loc[own, "shown"] = (found.loc[own, "case_number"] < count).astype(float)
        found.loc[own & (found["case_number"] >= COUNT), "shown"] = 1.0  # not attacked: must not count
    return found


def params(**changes):
    values = fabricated.params(arms=["base", "distill", "esd", "bilevel"])
    values["tables"] = {"solvers": fabricated.table(["bilevel"], {"solver": {"ours": {"bilevel.upper_lr": 1.0e-4}}})}
    own = {"arms": ["distill", "esd", "bilevel"], "tables": ["solvers"], "prompts": COUNT, "tried": TRIED}
    return values | {"attacks": own | changes}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    fid = {"esd": (31.0, 1.0), "bilevel": (29.0, 1.0)}
    return fabricated.experiment(tmp_path_factory.mktemp("attacks"), params(), count=12, score=score, fid=fid)


@pytest.fixture(scope="module")
def found(path):
    (victims,) = success.victims(read_plan(path))
    return success.of(victims, 400)


@pytest.fixture(scope="module")
def frame(found):
    return attacks.frame([found]).set_index("arm")


def share(row):
    return 100 * np.mean([count / COUNT for count in SHOWN[row]])


def test_success_is_the_share_of_attacked_prompts_that_show_the_concept(frame):
    assert list(frame.index) == ["distill", "esd", "bilevel", "bilevel ours"]
    for row in frame.index:
        assert frame.loc[row, "before"] == pytest.approx(share(row)), "prompts that were not attacked do not count"
        for label in ("finish", "few_50", "few_200"):
            assert frame.loc[row, label] == pytest.approx(share(f"{row} under {label}"))
    assert (frame["n_prompts"] == 2 * COUNT).all() and (frame["n_seeds"] == 1).all()
    assert frame.loc["esd", "fid"] == pytest.approx(31.0, abs=1e-6) and frame.loc["bilevel", "fid"] < 30
    assert 0 < frame.loc["esd", "cra"] <= 100


def test_intervals_hold_the_value_and_those_at_the_end_are_wilsons(frame):
    names = ["before", "finish", "few_50", "few_200", "area_few"]
    for name in names:
        assert (frame[f"{name}_lo"] <= frame[name]).all() and (frame[name] <= frame[f"{name}_hi"]).all()
    wilson = at_the_end(2 * COUNT, 0.0, 100.0)
    assert frame.loc["bilevel", "before_hi"] == pytest.approx(wilson.hi) and wilson.hi > 10
    assert frame.loc["bilevel ours", "area_few_hi"] == pytest.approx(wilson.hi)


def test_with_those_before_counted_in_it_is_post_asr(frame):
    """A prompt that no longer shows it under attack still counts."""
    assert frame.loc["esd", "finish_or_before"] == pytest.approx(share("esd under finish"))
    assert frame.loc["distill", "few_50_or_before"] == pytest.approx(100)  # 93.75 under attack
    assert frame.loc["distill", "few_50"] == pytest.approx(93.75)
    assert frame.loc["distill", "few_50_or_before_lo"] == pytest.approx(at_the_end(16, 100, 100.0).lo)
    assert frame.loc["bilevel ours", "few_200_or_before"] == 0


def test_the_area_under_a_curve_begins_with_before(frame):
    before, early, late = (share(f"esd{end}") for end in ("", " under few_50", " under few_200"))
    wanted = (50 * (before + early) / 2 + 150 * (early + late) / 2) / 200
    assert frame.loc["esd", "area_few"] == pytest.approx(wanted)
    assert frame.loc["bilevel ours", "area_few"] == 0


def test_an_attack_without_anything_to_work_on_is_not_applicable(found, frame):
    assert frame["leak"].isna().all() and (frame["not_applicable"] == "leak").all()
    text = attacks.text([found], frame.reset_index())
    column = text.header.index("leak ↓")
    assert {cells[column] for cells in text.rows} == {("not applicable", "")}


def test_the_lowest_success_of_rows_that_erase_is_marked(found, frame):
    text = attacks.text([found], frame.reset_index())
    column = text.header.index("finish ↓")
    assert text.rows[3][0] == ("bilevel ours", "") and text.rows[3][column][0] == "0.0"
    assert {row for row, own in text.best if own == column} == {3}
    assert {row for row, own in text.best if own == text.header.index("before ↓")} == {2, 3}
    assert text.header[1:3] == ["FID ↓", "CRA ↑"]
    assert any(note.startswith("few_50 ↓: relearn, source concepts, count 2") for note in text.notes)


def test_quality_is_told_with_its_protocol_and_its_warnings(found, frame, monkeypatch):
    (run,) = found.victims.group.arms["esd"]
    warned = {"protocol": {"mode": "clean"}, "warning": "too few pictures"}
    monkeypatch.setitem(run.records, "fid", warned)
    notes = attacks.text([found], frame.reset_index()).notes
    assert [note for note in notes if note.startswith("FID: ")] == ["FID: mode clean", "FID: warning, too few pictures"]


def test_differences_are_paired_and_called_only_if_the_interval_excludes_zero(found):
    lines = attacks.paired([found]).set_index(["arm", "against", "attack"])
    rise = lines.loc["esd", "before", "finish"]
    assert rise["difference"] == pytest.approx(share("esd under finish") - share("esd"))
    assert rise["lo"] > 0 and rise["better"] == "no"
    ours = lines.loc["bilevel", "esd", "finish"]
    assert ours["difference"] == pytest.approx(share("bilevel under finish") - share("esd under finish"))
    assert ours["hi"] < 0 and ours["better"] == "yes"
    small = lines.loc["bilevel", "before", "few_200"]  # 1 of 16 against 0 of 16
    assert small["difference"] == pytest.approx(6.25) and small["better"] == ""
    against = {other for arm, other, _ in lines.index if arm == "bilevel ours"}
    assert against == {"before", "distill", "esd", "bilevel"}
    assert {other for arm, other, _ in lines.index if arm == "esd"} == {"before", "distill"}
    assert {other for arm, other, _ in lines.index if arm == "distill"} == {"before"}
    text = attacks.paired_text(attacks.paired([found]))
    assert list(text.labels.values()) == [
        "under attack, minus before",
        "minus distill, which erases nothing",
        "bilevel minus others that erase",
        "bilevel ours minus others that erase",
    ]
    assert len(text.rows) == 4 + 3 + 1 + 2
    assert lines.loc["bilevel", "esd", "area_few"]["better"] == "yes"
    assert lines.loc["bilevel", "esd", "before"]["better"] == ""


def test_shared_prompts_narrow_a_difference(found):
    """All pictures that esd shows before, it shows after: their doubt cancels."""
    both = found.difference(("esd", "few_200"), ("esd", "few_50"))
    parts = [found.estimate("esd", name) for name in ("few_200", "few_50")]
    apart = np.hypot(*(one.hi - one.lo for one in parts))
    assert both.hi - both.lo < apart


def test_pictures_that_no_judge_can_read_are_not_run(tmp_path):
    def blind(row, seed, table):
        return score(row, seed, table).assign(shown=np.nan)

    path = fabricated.experiment(tmp_path, params(), count=12, score=blind)
    (victims,) = success.victims(read_plan(path))
    own = success.of(victims, 50)
    frame = attacks.frame([own])
    assert frame[["before", "finish", "area_few"]].isna().all(axis=None)
    text = attacks.text([own], frame)
    assert {cells[text.header.index("finish ↓")][0] for cells in text.rows} == {"not run"}
    assert not relearning.draw([own], tmp_path / "none.png") and not (tmp_path / "none.png").exists()
    assert attacks.paired([own]).empty


def test_several_budgets_and_sets_make_a_group_each(tmp_path):
    values = params(tables=[])
    values["tables"] = {}
    values["grid"] |= {
        "budgets": [0.8, 0.55],
        "sets": {"all": ["van_gogh", "monet"], "one": ["monet"]},
        "seeds": [0, 1],
    }
    path = fabricated.experiment(tmp_path, values, count=12, score=score)
    groups = [success.of(own, 50) for own in success.victims(read_plan(path))]
    frame = attacks.frame(groups)
    assert len(frame) == 4 * 3 and set(zip(frame["set"], frame["keep"], strict=True)) == {
        *((name, keep) for name in ("all", "one") for keep in (0.8, 0.55))
    }
    assert set(frame["n_prompts"]) == {COUNT, 2 * COUNT} and set(frame["n_seeds"]) == {2}
    text = attacks.text(groups, frame)
    assert text.header[:3] == ["arm", "set", "keep"] and text.breaks == {3, 6, 9}
    assert relearning.draw(groups, tmp_path / "curves" / "attacks.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], "no run of bilevel ours of table solvers, .*seed 0 under attack few_200"),
        (lambda rows: [*rows, rows[-1] | {"attack": "magic"}], "attack magic, .* is no run that is to be attacked"),
        (lambda rows: [*rows, rows[-1]], "stands there twice"),
    ],
)
def test_gaps_doubles_and_strangers_are_refused(path, tmp_path, change, words):
    plan = json.loads(path.read_text())
    other = path.with_name("other.json")
    other.write_text(json.dumps(plan | {"rows": change(plan["rows"])}))
    with pytest.raises(UserError, match=words):
        success.victims(read_plan(other))


def test_attacks_on_other_prompts_are_refused(tmp_path):
    path = fabricated.experiment(tmp_path, params(), count=12, score=score)
    plan = json.loads(path.read_text())
    row = next(row for row in plan["rows"] if row["attack"] == "few_50")
    file = f"{row['metrics']}/scores.csv"
    table = pd.read_csv(file)
    table.assign(seed=table["seed"] + 1).to_csv(file, index=False)
    fabricated.signed(Path(row["metrics"]))
    (victims,) = success.victims(read_plan(path))
    with pytest.raises(UserError, match="is of other prompts than other attacks"):
        success.of(victims, 20)


def test_a_plan_without_attacks_has_none(tmp_path):
    path = fabricated.experiment(tmp_path, params(arms=[], tables=[]), count=4)
    assert success.victims(read_plan(path)) == []


def test_the_report_has_the_table_its_differences_and_the_figure(path, tmp_path):
    out = tmp_path / "report"
    build.build(read_plan(path), out, 100, 2)
    table = pd.read_csv(out / "tables" / "attacks.csv")
    assert list(table["arm"]) == ["distill", "esd", "bilevel", "bilevel ours"]
    assert len(pd.read_csv(out / "tables" / "attacks_paired.csv")) > 20
    assert (out / "curves" / "attacks.png").stat().st_size > 10_000
    assert "not applicable" in (out / "tables" / "attacks.md").read_text()
    totals = json.loads((out / "summary.json").read_text())["attacks"]
    assert totals["esd"]["finish"] == pytest.approx(share("esd under finish"))
    page = (out / "index.html").read_text()
    for words in ("What attacks get back", "esd under finish", "Attack few 200", "Differences to before", "Relearning"):
        assert words in page
    stamp = json.loads(next(out.glob("recipe-*.json")).read_text())
    assert {run["attack"] for run in stamp["runs"]} == {None, "finish", "few_50", "few_200"}
