"""The map of the modules is whole and names nothing that is not there."""

import re
from pathlib import Path

LETHE = Path(__file__).resolve().parents[1] / "lethe"


def test_every_module_has_its_place_on_the_map_and_no_other():
    named = re.findall(r"`([a-z_]+\.(?:py|yaml))`", (LETHE / "README.md").read_text())
    there = {path.name for path in [*LETHE.glob("*.py"), *LETHE.glob("*.yaml")]} - {"__init__.py"}
    assert set(named) - {"__init__.py"} == there
    assert all(named.count(name) == 1 for name in there - {"scoring.py"})
    packages = {path.parent.name for path in LETHE.glob("*/__init__.py")} | {"metrics"}
    text = (LETHE / "README.md").read_text()
    assert all(f"`{name}/`" in text for name in packages)
