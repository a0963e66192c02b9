import subprocess
import sys

import pytest

from lethe.stage import cli
from stages import report
from tests import fabricated


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return fabricated.experiment(tmp_path_factory.mktemp("report"), fabricated.params(), count=2, side=8)


def words(plan, out, *more):
    return ["--plan", str(plan), "--experiment", "fabricated", "--out", str(out), "--bootstrap", "200", *more]


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["report", *argv])
    cli.run(report.main)


def test_dry_run_then_run_then_nothing_to_do(plan, tmp_path, monkeypatch, capsys):
    out = tmp_path / "reports" / "fabricated"
    run(monkeypatch, *words(plan, out, "--grid-prompts", "2", "--dry-run"))
    assert "would report 5 runs" in capsys.readouterr().out
    assert not out.exists()
    run(monkeypatch, *words(plan, out, "--grid-prompts", "2"))
    assert "index.html" in capsys.readouterr().out
    (stamp,) = out.glob("recipe-*.json")
    before = stamp.stat().st_mtime_ns
    run(monkeypatch, "--plan", str(plan), "--out", str(out))  # the values are the plan's
    assert "is there" in capsys.readouterr().out
    assert stamp.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--grid-prompts", "3"], "the flags say"),
        (["--grid-prompts", "0"], "report.grid_prompts"),
        (["--grid-prompts", "2", "--experiment", "atelier"], "wanted 'atelier'"),
        (["--grid-prompts", "2", "--plan", "gone.json"], "gone.json: no such file"),
    ],
)
def test_mistakes_are_one_line(plan, tmp_path, monkeypatch, capsys, more, message):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *words(plan, tmp_path / "out", *more))
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_importing_the_stage_is_cheap():
    code = "import stages.report, sys; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
