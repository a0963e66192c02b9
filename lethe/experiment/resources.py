"""What the workflow's rules ask of a machine for one job of each stage, read from rules/*.smk."""

import re
from dataclasses import dataclass
from pathlib import Path

RULES = Path(__file__).parents[2] / "rules"
RULE = re.compile(r"^ *rule (\w+):\n(.*?)(?=^ *rule \w+:|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Resources:
    """GPUs, memory in MB and the time limit in minutes; None where a rule says nothing."""

    gpu: int
    mem_mb: int | None
    minutes: int | None


def of_rules() -> dict[str, Resources]:
    """Rule -> what it asks for; {} where the rules do not lie beside the package."""
    found = {}
    for file in sorted(RULES.glob("*.smk")):
        for name, body in RULE.findall(file.read_text(encoding="utf-8")):
            found[name] = Resources(int("gpu=" in body), _number(body, "mem_mb="), _number(body, "runtime="))
    return found


def _number(body: str, before: str) -> int | None:
    found = re.search(rf"^\s+{before}(\d+)", body, re.MULTILINE)
    return int(found[1]) if found else None
