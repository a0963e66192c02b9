import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from lethe.files.errors import UserError
from lethe.files.io import sha256
from lethe.report import build as module
from lethe.report import claims, page
from lethe.report.build import build
from lethe.report.columns import measured
from lethe.report.plan import is_built, stamp
from lethe.report.reading import read_plan
from tests import fabricated

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest; keeps the addresses, ids and the words."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.ids, self.words = [], [], set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "data", "action", "srcset"):
                self.addresses.append(value)
            if key == "id":
                self.ids.add(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


TABLES = ("style", "style_paired", "kept", "kept_paired")


@pytest.fixture(scope="module")
def built(plan_path, tmp_path_factory):
    plan = read_plan(plan_path)
    out = tmp_path_factory.mktemp("reports") / "fabricated"
    build(plan, out, 100, 2)
    return plan, out


def test_everything_is_there(built):
    plan, out = built
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {
        *(f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")),
        *(f"grids/style{name}.png" for name in ("", "-van_gogh", "-monet")),
        *("curves/training.png", "curves/tradeoff.png", "index.html", "summary.json", stamp(plan.recipe)),
    }
    assert not list(out.parent.glob("*.part-*"))
    for path in out.rglob("*.png"):
        with Image.open(path) as picture:
            picture.verify()


def test_the_stamp_tells_of_every_file(built):
    plan, out = built
    told = json.loads((out / stamp(plan.recipe)).read_text())
    files = {str(p.relative_to(out)): sha256(p) for p in out.rglob("*") if p.is_file() and p.name != stamp(plan.recipe)}
    assert told["files"] == files
    assert told["params"] == plan.params
    assert len(told["runs"]) == len(plan.runs) == 1 + 1 + 3 * 2


def test_the_page_opens_offline(built):
    plan, out = built
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    inside = [address for address in page.addresses if address.startswith("#")]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert {address[1:] for address in inside} <= page.ids
    assert not any(word in text for word in ("url(", "@import", "http:", "https:", "<script", "<link"))
    assert sum(address.startswith("data:image/png;base64,") for address in page.addresses) == 3 + 2
    words = " ".join(" ".join(page.words).split())
    for wanted in (
        "fabricated",
        "arXiv 2412.15341 Table 1",
        "shown",
        "negative_guidance",
        plan.recipe,
        "bilevel minus",
    ):
        assert wanted in words
    assert "One training seed:" not in words


def test_prompts_cannot_write_into_the_page(tmp_path):
    values = fabricated.params(arms=["distill"], sets={"all": ["monet"]})
    values["concepts"]["monet"]["prompt"] = "<script>alert(1)</script>"
    build(read_plan(fabricated.experiment(tmp_path, values, count=2, side=8)), tmp_path / "out", 20, 1)
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "One training seed:" in text


def test_summary_is_arm_concept_metric(built):
    _, out = built
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {"base", "pruned", "distill", "esd", "bilevel"}
    assert set(summary["bilevel"]) == {"all", "van_gogh", "monet"}
    both = [summary["bilevel"][name]["csd_raw"] for name in ("van_gogh", "monet")]
    assert summary["bilevel"]["all"]["csd_raw"] == pytest.approx(sum(both) / 2, rel=1e-4)
    assert summary["esd"]["all"]["fid"] == pytest.approx(30)
    assert summary["distill"]["all"]["csd"] == 100


@pytest.fixture(scope="module")
def tabled(tables_path, tmp_path_factory):
    plan = read_plan(tables_path)
    out = tmp_path_factory.mktemp("reports") / "tables"
    build(plan, out, 100, 1)
    return plan, out


def test_every_table_has_its_files(tabled):
    _, out = tabled
    names = {path.stem for path in (out / "tables").iterdir()}
    tables = ("style", "kept", "solvers", "plugins", "distillation", "orders", "keeping")
    kept = {f"{name}_kept" for name in tables[2:]}
    assert names == {*tables, *(f"{name}_paired" for name in tables), *kept, "plugins_matrix"}
    assert all((out / "tables" / f"{name}.{kind}").is_file() for name in names for kind in ("csv", "md", "tex"))
    assert {path.name for path in (out / "curves").iterdir()} == {"training.png", "tradeoff.png", "distillation.png"}


def test_every_table_is_on_the_page(tabled):
    plan, out = tabled
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert {f"table-{table.name}" for table in plan.tables} <= page.ids
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= page.ids
    words = " ".join(" ".join(page.words).split())
    for wanted in (
        "Figure 4 of the paper",
        "Solvers of the bilevel problem",
        "Keeping",
        "bilevel: UA ↑ / FID ↓",
        "bilevel: minus alternate 10",
        "alternate: as above; penalty: bilevel.solver = penalty",
        "0.12 %",
        "5 further tables",
    ):
        assert wanted in words, wanted
    assert text.count('<div class="scroll') == text.count("<table")


def test_tables_are_in_the_summary(tabled):
    _, out = tabled
    found = json.loads((out / "summary.json").read_text())
    assert list(found)[-5:] == ["solvers", "plugins", "distillation", "orders", "keeping"]
    assert found["solvers"]["bilevel penalty 10"]["fid"] == pytest.approx(18)
    assert found["solvers"]["bilevel alternate 10"]["fid"] == found["bilevel"]["all"]["fid"]
    assert "distill both 60 b055-all" in found["distillation"]
    assert "base" not in found["solvers"]


def test_the_stamp_tells_of_runs_in_tables(tabled):
    plan, out = tabled
    told = json.loads((out / stamp(plan.recipe)).read_text())["runs"]
    assert len(told) == len(plan.runs)
    assert {"table": "solvers", "labels": {"solver": "penalty", "frequency": "5"}}.items() <= [
        run for run in told if run["table"] == "solvers"
    ][-1].items()


def test_claims_do_not_hear_of_tables(tabled, tables_path, tmp_path):
    plan, _ = tabled
    bare = json.loads(tables_path.read_text())
    bare["rows"] = [row for row in bare["rows"] if row["table"] is None]
    bare["params"]["tables"] = {}
    (tmp_path / "plan.json").write_text(json.dumps(bare))
    alone = read_plan(tmp_path / "plan.json")
    assert alone.tables == ()
    verdicts = [claims.judge(*measured(of.groups, 50)[0]) for of in (plan, alone)]
    assert verdicts[0] == verdicts[1]


def test_the_same_report_twice_is_the_same(built, tmp_path):
    plan, out = built
    build(plan, tmp_path / "again", 100, 2)
    for path in out.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes(), path


def test_an_old_report_is_replaced(plan_path, tmp_path):
    plan, out = read_plan(plan_path), tmp_path / "out"
    (out / "old").mkdir(parents=True)
    for name in ("recipe-0123456789.json", "old/table.csv"):
        (out / name).write_text("{}")
    build(plan, out, 20, 1)
    assert is_built(out, plan.recipe) and not is_built(out, "0123456789")
    assert not (out / "old").exists()


def test_a_failure_leaves_the_old_report(plan_path, tmp_path, monkeypatch):
    plan, out = read_plan(plan_path), tmp_path / "out"
    out.mkdir()
    (out / stamp("0123456789")).write_text("{}")

    def fail(*_):
        raise UserError("no")

    monkeypatch.setattr(module.page, "render", fail)
    with pytest.raises(UserError):
        build(plan, out, 20, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == [stamp("0123456789")]


def test_a_kill_while_moving_leaves_no_stamp(plan_path, tmp_path, monkeypatch):
    plan, out = read_plan(plan_path), tmp_path / "out"
    out.mkdir()
    (out / stamp("0123456789")).write_text("{}")
    replace, moved = module.os.replace, []

    def dies(source, target):
        if "out.part-" in str(source) and "recipe" not in str(source) and str(target).startswith(str(out) + "/"):
            moved.append(target)
            if len(moved) == 4:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        build(plan, out, 20, 1)
    assert len(moved) == 4
    assert not list(out.glob("recipe-*.json"))


@pytest.mark.parametrize(
    ("note", "parts"),
    [
        ("Removal: mma ↑: pictures of category mma: those", ("Removal: mma ↑", "pictures of category mma: those")),
        ("CLIP, CP: local-dir:models/clip", ("CLIP, CP", "local-dir:models/clip")),
        ("MACs kept: of the dense model's", ("MACs kept", "of the dense model's")),
    ],
)
def test_a_note_is_a_column_and_its_meaning(note, parts):
    assert page.parted(note) == parts
