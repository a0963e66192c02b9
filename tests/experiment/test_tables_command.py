"""`lethe tables`: Snakemake's call, and what goes before it."""

import os
import sys
from unittest import mock

import pytest
import yaml

from lethe.experiment import tables
from lethe.files.errors import UserError
from lethe.params import options
from tests.experiments import ROOT


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    values = options.load(ROOT / "params/smoke.yaml")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values | {"experiment": "mine"}))
    (tmp_path / "Snakefile").touch()
    (tmp_path / "reports/mine").mkdir(parents=True)
    (tmp_path / "reports/mine/recipe-0123456789.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lethe tables", "mine.yaml", "--cores", "2"])
    return tmp_path


def test_snakemake_takes_the_place_of_the_process(checkout):
    with mock.patch.object(os, "execve") as run:
        tables.main()
    program, words, environment = run.call_args.args
    assert (program, words[:3]) == (sys.executable, [sys.executable, "-m", "snakemake"])
    assert words[3:] == ["--cores", "2", "--logger", "lethe", "--config", "params=mine.yaml"]
    assert environment["PYTHONPATH"].split(":")[0] == "rules"
    assert not list(checkout.glob("reports/mine/*"))  # no results here, so the report is made anew


def test_jobs_find_this_python(monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    tables.prefer_own_python()
    assert os.environ["PATH"] == f"{os.path.dirname(sys.executable)}:/bin"


def test_a_report_whose_results_are_there_stays(checkout):
    (checkout / "results/mine").mkdir(parents=True)
    with mock.patch.object(os, "execve"):
        tables.main()
    assert (checkout / "reports/mine/recipe-0123456789.json").is_file()


def test_outside_a_checkout_it_says_that_it_needs_one(checkout):
    (checkout / "Snakefile").unlink()
    with pytest.raises(UserError, match=r"no Snakefile here; .* a checkout of lethe"):
        tables.main()
    assert (checkout / "reports/mine/recipe-0123456789.json").is_file()
