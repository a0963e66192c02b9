"""The reports that are committed whole: each is what its params file asks for, by today's versions of the stages."""

from pathlib import Path

import pytest

from lethe.experiment import plan
from lethe.params import options
from lethe.report.plan import stamp

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["params.yaml", "params/unsafe.yaml"])
def test_a_committed_report_is_that_of_its_params(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = options.load(ROOT / name)
    found, folder = plan.build(values), ROOT / "reports" / values["experiment"]
    assert [one.name for one in folder.glob(stamp("*"))] == [stamp(found.recipe)]
    tables = {one.name for one in (folder / "tables").iterdir()}
    assert {f"{table}{end}.csv" for table in found.tables for end in ("", "_paired")} <= tables
