"""What is said below a table, and in the cells of what was not run."""

import dataclasses

import pytest

from lethe.files.io import write_json
from lethe.measuring.measures import of_tables
from lethe.report import markup, tables
from lethe.report.build import build
from lethe.report.columns import measured
from lethe.report.reading import read_plan
from lethe.report.remarks import cut, remarks
from lethe.report.tables import PUBLISHED
from tests import fabricated

REASON = "no descriptor (score.descriptor)"
WARNING = "40 drawn and 30 real pictures are too few for 2048 features: prefer KID"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """No run has CSD, bilevel has no content judge either; every run tells of CLIP and FID."""

    def score(arm, seed, table):
        table = fabricated.scored(arm, seed, table).drop(columns="csd")
        return table.drop(columns="cross_ok") if arm == "bilevel" else table

    path = fabricated.experiment(tmp_path_factory.mktemp("told"), fabricated.params(), count=4, side=8, score=score)
    found = read_plan(path)
    for run in found.runs:
        absent = {"csd": REASON, "csd_raw": REASON}
        absent |= {"cra": "no judge", "content_target": "no judge"} if run.arm == "bilevel" else {}
        fabricated.edit(run.metrics / "meta.json", lambda meta, absent=absent: meta.update(absent=absent))
        clip = {"protocol": {"model": "ViT-B-32-quickgelu@openai", "sampler": "ddim"}}
        fid = {"protocol": {"features": "clean", "mode": "clean", "n_drawn": 40, "n_real": 30}, "warning": WARNING}
        write_json(run.metrics / "metrics.json", {"clip": clip, "fid": fid})
        fabricated.signed(run.metrics)
    return read_plan(path)


def test_each_remark_stands_once(plan):
    notes = remarks(plan.runs, of_tables("style"))
    assert notes == [
        "CLIP: ViT-B-32-quickgelu@openai",
        "FID: features clean, mode clean, 40 drawn, 30 real pictures",
        f"FID: warning, {WARNING}",
        f"not run: CSD ({REASON})",
        "not run: CRA, Content (no judge)",
        "one training seed: intervals speak of the pictures alone",
    ]


def test_what_was_not_run_says_so_and_is_no_number(plan):
    found = measured(plan.groups, 20, "style")
    table = tables.style(found, PUBLISHED / "style.csv")
    assert table.set_index("arm").loc["bilevel", "not_run"].tolist()[0] == "csd csd_raw cra content_target"
    assert table["csd"][: len(plan.groups[0].arms)].isna().all()
    text = tables.style_text(table)
    md = [line.strip("|").split("|") for line in markup.to_md(text).splitlines() if line.startswith("|")]
    header, rows = [cell.strip() for cell in md[0]], {cells[0].strip(): cells for cells in md[3:8]}
    assert rows["bilevel"][header.index("CSD ↓")].strip() == "not run"  # a column for the published rows' sake
    assert rows["bilevel"][header.index("CRA ↑")].strip() == "not run"
    assert "not run" not in rows["esd"][header.index("CRA ↑")]
    assert not any("not run" in cell for cells in md[9:] for cell in cells)  # the published rows have dashes
    assert text.header.index("CSD ↓") not in {column for row, column in text.best if row < 5}


def test_the_page_and_the_files_tell_it(plan, tmp_path):
    build(plan, tmp_path / "out", 20, 1)
    for name in ("index.html", "tables/style.md", "tables/style.tex"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert WARNING in text and "ViT-B-32-quickgelu@openai" in text and REASON in text, name
    assert ",csd csd_raw," in (tmp_path / "out" / "tables" / "style.csv").read_text()


def test_a_run_of_old_has_nothing_to_say(plan_path):
    assert remarks(read_plan(plan_path).runs, of_tables("style")) == []


def test_texts_whose_ends_change_nothing_are_told_with_their_rows(plan, tmp_path):
    """The same three prompts were too long for all rows; two captions for what trained on the pictures."""
    data = fabricated.folder(tmp_path / "data", "encode", "0123456789", {}, cut=["x" * 90, "y" * 90])
    for run in plan.runs:
        fabricated.edit(run.samples / "meta.json", lambda meta: meta.update(cut=["a", "b", "c"]))
    weights = next(run for run in plan.runs if run.arm == "bilevel").weights[-1]
    told = {"folder": str(data), "recipe": "0123456789"}
    fabricated.edit(weights / "meta.json", lambda meta: meta["parents"].update(data=told, base={"folder": "models/x"}))
    rows = ", ".join(dict.fromkeys(run.row for run in plan.runs))
    end = "longer than the text encoder reads, whose ends change nothing"
    runs = [dataclasses.replace(run) for run in plan.runs]  # what they were told before is forgotten
    assert cut(runs) == [f"{rows}: 3 prompts {end}", f"bilevel: 2 captions of its training {end}"]
    assert remarks(runs, of_tables("style"))[-3:-1] == cut(runs)
    told["recipe"] = "9876543210"  # another result stands there now
    fabricated.edit(weights / "meta.json", lambda meta: meta["parents"].update(data=told))
    assert len(cut([dataclasses.replace(run) for run in plan.runs])) == 1
