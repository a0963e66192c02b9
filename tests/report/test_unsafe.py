"""Table `unsafe`, on scores whose removal rates are known."""

import json

import numpy as np
import pandas as pd
import pytest

from lethe.measuring.intervals import Draws, Estimate, Sample, apart
from lethe.measuring.measures import METRICS, measure, named
from lethe.report import columns, markup, tables
from lethe.report.build import build
from lethe.report.columns import measured
from lethe.report.reading import read_plan
from lethe.report.tables import PUBLISHED
from tests import fabricated

LEFT = {"base": 20, "pruned": 14, "distill": 16, "esd": 4, "bilevel": 0}  # of 20 pictures a category, that show it


def emblem(values: dict) -> dict:
    own = {"kind": "unsafe", "prompt": "a sign", "anchor": "a", "pictures": None, "prompts": "p.csv"}
    values["concepts"]["emblem"] = own | {"style": "sign", "neighbours": []}
    return values


def scored(arm, seed, table):
    """Explicit prompts show it in the first LEFT[arm] of 20 pictures, implied ones in the first half as many."""
    table = fabricated.scored(arm, seed, table)
    own = (table["set"] == "emblem").to_numpy()
    number = table["case_number"].to_numpy()
    explicit = number < 20
    shown = np.where(explicit, number < LEFT[arm], number - 20 < LEFT[arm] / 2).astype(float)
    table.loc[own, "shown"] = shown[own]
    table.loc[own, "category"] = np.where(explicit, "explicit", "implied")[own]
    table.loc[own, "cross_ok"] = 1.0
    return table.assign(domain_ok=table["domain_ok"].where(~own))


def plan(tmp_path, **grid):
    values = emblem(fabricated.params(**{"sets": {"all": ["emblem"]}, "seeds": [0, 1], **grid}))
    return read_plan(fabricated.experiment(tmp_path, values, count=40, side=8, score=scored))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(plan(tmp_path_factory.mktemp("unsafe")).groups, 300, "unsafe")


def ours(found) -> pd.DataFrame:
    table = tables.of_kind(found, PUBLISHED / "unsafe.csv", "unsafe")
    return table[table["source"] == columns.OURS].set_index("arm")


def test_removal_is_what_is_gone_of_what_there_was(found):
    table = ours(found)
    assert table.loc["esd", "removal"] == pytest.approx(100 * (1 - 6 / 24))
    assert table.loc["esd", "removal_base"] == pytest.approx(100 * (1 - 6 / 30))
    assert table.loc["base", "removal"] == pytest.approx(100 * (1 - 30 / 24)) and table.loc["base", "removal"] < 0
    assert table.loc["distill", ["removal", "removal_lo", "removal_hi"]].tolist() == [0, 0, 0]
    assert table.loc["base", ["removal_base", "removal_base_lo", "removal_base_hi"]].tolist() == [0, 0, 0]
    assert table.loc["esd", "removal_explicit"] == pytest.approx(75)


def test_shares_by_category(found):
    table = ours(found)
    assert table.loc["esd", "shown_explicit"] == 20 and table.loc["esd", "shown_implied"] == 10
    assert table.loc["esd", "shown"] == pytest.approx(15)
    assert (table["shown_implied_lo"] <= table["shown_implied"]).all()
    assert table.loc["bilevel", "shown_explicit_hi"] == pytest.approx(100 * 3.8415 / 23.8415, abs=0.01)
    for name in ("ua", "ira_other"):
        assert name not in table
    assert table.loc["esd", "content_target"] == 100


def test_nothing_left_of_24_keeps_wilsons_doubt(found):
    row = ours(found).loc["bilevel"]
    assert (row["removal"], row["removal_hi"]) == (100, 100)
    assert row["removal_lo"] == pytest.approx(100 - 100 * 3.8415 / (24 + 3.8415), abs=0.01)


def test_before_and_after_meet_the_same_draws(found):
    """What shows it after showed it before: a draw with many of them has many before. Apart, the interval is wider."""
    (_, measured_, _), *_ = found
    own = measured_.samples["esd"]["removal"].interval()
    draws = Draws(2, 300)
    after = np.array([1.0] * 4 + [0.0] * 16 + [1.0] * 2 + [0.0] * 18)
    before = np.array([1.0] * 16 + [0.0] * 4 + [1.0] * 8 + [0.0] * 12)
    one = draws.mean({"a": np.array([after, after])})
    other = draws.mean({"b": np.array([before, before])})  # another stratum: other draws
    apart_ = one.ratio(other, 100).interval()
    assert own.hi - own.lo < apart_.hi - apart_.lo


def test_the_table_for_people(found):
    table = tables.of_kind(found, PUBLISHED / "unsafe.csv", "unsafe")
    metrics = columns.columns_of(found, ("unsafe",), pd.read_csv(PUBLISHED / "unsafe.csv"))
    text = tables.style_text(table, metrics)
    wanted = ["Removal ↑", "Removal: mma ↑", "Removal: ring_a_bell ↑", "Removal, dense ↑"]
    assert [name for name in text.header if name.startswith("Removal")] == wanted
    assert [name for name in text.header if name.startswith("Shown")] == ["Shown: explicit ↓", "Shown: implied ↓"]
    assert {"FID ↓", "Content ↑", "train s", "passes"} <= set(text.header)
    assert text.labels == {0: columns.OURS, 5: "arXiv 2412.15341 Table 2"}
    md = markup.to_md(text)
    assert {line.count("|") for line in md.splitlines() if line.startswith("|")} == {len(text.header) + 1}
    rows = {line.split("|")[1].strip(): line for line in md.splitlines()[2:8]}
    assert "**100.0**" in rows["bilevel"] and "**" not in rows["distill"]
    note = next(note for note in text.notes if note.startswith("Shown: implied"))
    assert "prompts of category implied" in note


def test_published_rows_are_those_of_the_paper():
    table = pd.read_csv(PUBLISHED / "unsafe.csv").set_index("arm")
    assert table.loc["bilevel", ["removal_mma", "removal_ring_a_bell", "fid", "clip_retain"]].tolist() == [
        91.6, 94.32, 26.8, 29.94,
    ]  # fmt: skip
    assert np.isnan(table.loc["distill", "removal_mma"]) and "uce" not in table.index


def test_differences_to_the_other_arms(found):
    lines = tables.paired(found, "unsafe").set_index(["against", "metric"])
    assert lines.loc[("esd", "removal"), "difference"] == pytest.approx(25)
    assert lines.loc[("esd", "removal"), "better"] == "yes"
    assert lines.loc[("distill", "shown:implied"), "better"] == "yes"
    assert "ua" not in lines.index.get_level_values("metric")
    text = tables.paired_text(tables.paired(found, "unsafe"))
    assert "Shown: implied ↓" in [cells[0][0] for cells in text.rows]


def test_a_set_of_both_kinds_stands_in_both_tables(tmp_path):
    one = plan(tmp_path, sets={"all": ["emblem", "monet"], "styles": ["monet"]}, seeds=[0])
    styles, unsafe = (measured(one.groups, 50, name) for name in ("style", "unsafe"))
    assert [group.set for group, _, _ in styles] == ["all", "styles"] and [g.set for g, _, _ in unsafe] == ["all"]
    (_, alone, _) = unsafe[0]
    assert alone.estimate("esd", "removal").value == pytest.approx(75)  # the emblem's own, without monet's
    (_, both, _) = measured(one.groups, 50)[0]
    assert both.estimate("esd", "removal").value != pytest.approx(75)
    build(one, tmp_path / "out", 20, 1)
    names = {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert names == {"style", "style_paired", "unsafe", "unsafe_paired", "kept", "kept_paired"}
    text = (tmp_path / "out" / "index.html").read_text()
    assert 'id="unsafe"' in text and 'id="style"' in text and "What must not be drawn" in text


def test_a_report_of_unsafe_concepts_alone(tmp_path):
    build(plan(tmp_path, seeds=[0]), tmp_path / "out", 20, 1)
    names = {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert names == {"unsafe", "unsafe_paired", "kept", "kept_paired"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["esd"]["all"]["removal"] == pytest.approx(75)
    assert summary["esd"]["all"]["shown:implied"] == pytest.approx(10)
    assert "ua" not in summary["esd"]["all"]


def test_a_reference_that_never_shows_it_has_no_removal(tmp_path, monkeypatch):
    monkeypatch.setitem(LEFT, "distill", 0)
    (group,) = plan(tmp_path, seeds=[0]).groups
    found = measure(group, 50)
    assert found.estimate("esd", "removal") is None
    assert found.estimate("esd", "removal_base") is not None


def test_draws_without_the_concept_before_have_no_value():
    one, other = (Sample(float(np.mean(v)), np.array(v), 4) for v in ([0.5, 0.2, 0.1], [1.0, 0.0, 0.5]))
    found = one.ratio(other, 100).replicates
    assert found[0] == 50 and np.isnan(found[1]) and found[2] == 20


def test_two_intervals_put_together():
    """Newcombe's square and add, against his formula written out."""
    found = apart(Estimate(100, 97, 100), Estimate(95, 91, 98))
    assert found == Estimate(5, pytest.approx(5 - np.hypot(3, 3)), pytest.approx(5 + np.hypot(0, 4)))


def test_four_pictures_of_a_hundred_are_no_difference_to_none(tmp_path):
    """All of 96 against all but four: McNemar's exact p is 0.125, while resampling the four finds none in 2 % only."""

    def score(arm, seed, table):
        table = fabricated.scored(arm, seed, table)
        own = table["set"] == "monet"
        kept = {"bilevel": 0, "esd": 4}.get(arm, 90)
        table.loc[own, "shown"] = (table["case_number"][own] < kept).astype(float)
        return table

    values = fabricated.params(sets={"all": ["monet"]})
    path = fabricated.experiment(tmp_path, values, count=96, side=8, score=score)
    (own,) = measured(read_plan(path).groups, 2000)
    measured_ = own[1]
    plain = (measured_.samples["bilevel"]["ua"] - measured_.samples["esd"]["ua"]).interval()
    assert plain.lo > 0
    assert measured_.difference("bilevel", "esd", "ua").lo < 0
    assert measured_.difference("bilevel", "distill", "ua").lo > 50
    lines = tables.paired([own]).set_index(["against", "metric"])
    assert lines.loc[("esd", "ua"), "better"] == "" and lines.loc[("distill", "ua"), "better"] == "yes"


def test_names_of_categories():
    found = named("shown:self harm")
    assert (found.key, found.label, found.category) == ("shown_self_harm", "Shown: self harm", "self harm")
    assert found.column == METRICS["shown"].column and named("shown") is METRICS["shown"]
