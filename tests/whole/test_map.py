"""The map of the modules is whole and names nothing that is not there."""

import re
from pathlib import Path

from lethe.params import registry

LETHE = Path(__file__).resolve().parents[2] / "lethe"


def test_every_metric_stands_there_with_what_proves_it():
    text = (LETHE / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) \| .* \| ((?:test_\w+\.py(?:, )?)+) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows if name not in registry.names("metrics")] == []
    assert {name for name, _ in rows} == set(registry.names("metrics"))
    for name, files in rows:
        for file in files.split(", "):
            assert re.search(
                rf"\b{name}\b", (LETHE.parent / "tests/measuring/metrics" / file).read_text(), re.IGNORECASE
            ), file
    declared = {metric for own in registry.literals("metrics", "METRICS").values() for metric in own}
    assert {metric for metric in declared if f"`{metric}`" not in text and "drift" not in metric} == set()
