"""README.md and the pages: links lead somewhere, tables are the reports', formulas and proofs are all there,
and the pages build without a warning.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lethe.params import registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """Headings as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_relative_link_is_dead(page):
    dead = []
    for link in LINK.findall(without_code(page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_tables_are_those_of_the_committed_reports():
    done = subprocess.run([sys.executable, "docs/fill.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert next(line for line in lines[1:] if line).startswith("![")


@pytest.mark.parametrize("package", ["pruners", "solvers", "suppressions", "erasers", "attacks"])
def test_every_plugin_is_told_in_methods(package):
    text = (ROOT / "docs/methods.md").read_text()
    told = re.findall(r"^(?:###? .*|\| `.*)$", text, re.MULTILINE)
    assert [name for name in registry.names(package) if not any(f"`{name}`" in line for line in told)] == []


def test_every_metric_stands_there_with_what_proves_it():
    text = (ROOT / "docs/measurements.md").read_text()
    rows = re.findall(r"^\| (\w+) \| .* \| ((?:test_\w+\.py(?:, )?)+) \|$", text, re.MULTILINE)
    assert {name for name, _ in rows} == set(registry.names("metrics"))
    for name, files in rows:
        for file in files.split(", "):
            proof = (ROOT / "tests/measuring/metrics" / file).read_text()
            assert re.search(rf"\b{name}\b", proof, re.IGNORECASE), file
    declared = {metric for own in registry.literals("metrics", "METRICS").values() for metric in own}
    assert {metric for metric in declared if f"`{metric}`" not in text and "drift" not in metric} == set()


def test_every_room_stands_on_its_floor():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {room.split(".")[-1] for floor in contract["layers"] for room in floor.split(" | ")}
    assert named == {path.parent.name for path in ROOT.glob("lethe/*/__init__.py")} | {"stages"}


@pytest.mark.slow
def test_the_pages_build_without_a_warning_and_need_no_network(tmp_path):
    words = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text() for path in tmp_path.glob("*.html")}
    assert pages["methods.html"].count("<math ") > 50
    fetched = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"https?:|<link[^>]*rel=\"stylesheet\"[^>]*href=\"https?:")
    assert [name for name, text in pages.items() if fetched.search(text)] == []
