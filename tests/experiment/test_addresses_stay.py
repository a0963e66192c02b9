"""What was computed stays good: every address of every params file is the one that it had.

A change that alters results raises the VERSION of its plug-in or stage, and with it what stands in addresses.json:
write that anew by `python tests/experiment/test_addresses_stay.py`, and say in the commit which numbers move.
"""

import json
import sys
from pathlib import Path

import pytest

from lethe.experiment.plan import build
from lethe.files.io import digest, write_json
from lethe.params import options

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("own", "paper-sd21", "paper-sd21-unsafe")
KNOWN = Path(__file__).with_name("addresses.json")


def addresses(path: Path) -> dict[str, str | int]:
    """The report's recipe, and of the results' folders their number and a digest."""
    plan = build(options.load(path))
    return {"report": plan.recipe, "results": len(plan.nodes), "folders": digest(sorted(plan.nodes))}


def files() -> list[str]:
    """Params files whose pictures and base model are in the repository: all but the template and the paper's."""
    return [
        "params.yaml",
        *(f"params/{path.name}" for path in sorted(ROOT.glob("params/*.yaml")) if path.stem not in ELSEWHERE),
    ]


@pytest.mark.parametrize("name", files())
def test_the_addresses_of_an_experiment_are_those_that_it_had(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert addresses(Path(name)) == json.loads(KNOWN.read_text())[name]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write_json(KNOWN, {name: addresses(Path(name)) for name in files()})
