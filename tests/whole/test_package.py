"""`pip install .`: what is in the wheel, the command that it brings, and what it is said to need."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lethe

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL, SDIST = f"lethe-{lethe.__version__}-py3-none-any.whl", f"lethe-{lethe.__version__}.tar.gz"


def run(*words: object, cwd: Path) -> str:
    told = subprocess.run([*map(str, words)], cwd=cwd, env=bare(), capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout


def bare() -> dict[str, str]:
    """Ours without the paths that would find the checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, made by the locked backend."""
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "--directory", out, cwd=ROOT)
    return out


def test_wheel_and_sdist_hold_the_code_with_its_data_and_nothing_else(built):
    with zipfile.ZipFile(built / WHEEL) as wheel:
        names = wheel.namelist()
    tracked = subprocess.run(["git", "ls-files", "lethe", "stages"], cwd=ROOT, capture_output=True, text=True).stdout
    assert set(tracked.split()) <= set(names)
    assert {"lethe/params/schema.yaml", "lethe/report/templates/index.html", "stages/prune.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"lethe", "stages", f"lethe-{lethe.__version__}.dist-info"}
    with tarfile.open(built / SDIST) as sdist:
        places = {name.split("/")[1] for name in sdist.getnames()}
    own = {"lethe", "stages", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert places == own
    assert not any("__pycache__" in name for name in names)


def test_an_installed_lethe_runs_anywhere(built, tmp_path):
    place = tmp_path / "venv"
    venv.create(place, symlinks=True)
    python, libraries = place / "bin/python", sysconfig.get_paths()["purelib"]
    own = next(place.glob("lib/python*/site-packages"))
    (own / "libraries.pth").write_text(f"import site; site.addsitedir({libraries!r})")  # what it needs, as we have it
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", built / WHEEL]
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    command = place / "bin/lethe"
    assert run(command, "--version", cwd=tmp_path) == f"lethe {lethe.__version__}\n"
    assert run(command, "prune", "--help", cwd=tmp_path).startswith("usage: lethe prune ")
    where = run(python, "-c", "import lethe, stages; print(lethe.__file__, stages.__file__)", cwd=tmp_path)
    assert where.split() == [str(own / name / "__init__.py") for name in ("lethe", "stages")]
    run("git", "init", "--quiet", cwd=tmp_path)  # the venv in a project of somebody's own
    run(
        "git",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "a",
        cwd=tmp_path,
    )
    code = "from lethe.stage.record import code_revision; print(code_revision())"
    assert run(python, "-c", code, cwd=tmp_path) == "unknown\n"
    outside = subprocess.run([command, "tables"], cwd=tmp_path, env=bare(), capture_output=True, text=True)
    assert outside.returncode == 2 and "no Snakefile here" in outside.stderr and outside.stderr.count("\n") == 1


def test_the_version_stands_in_one_place_and_is_cited():
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lethe.__version__


def wanted(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line.partition("#")[0].strip()) for line in lines if re.match(r"[\w.-]", line)]
    return {canonicalize_name(one.name): one for one in found}


def test_what_is_needed_is_what_is_locked():
    """envs/requirements.in names the libraries first, then the workflow's; pyproject.toml the same ones, and the
    versions that everything is tested with are within its bounds."""
    head, _, rest = (ROOT / "envs/requirements.in").read_text().partition("# --- packaging")
    libraries, _, workflow = head.partition("# --- engines")
    project = PROJECT["project"]
    for text, own in ((libraries, project["dependencies"]), (workflow, project["optional-dependencies"]["workflow"])):
        assert wanted(text.splitlines()).keys() == wanted(own).keys()
    lines = (ROOT / "envs/requirements.txt").read_text().splitlines()
    locked = [line.rstrip("\\ ").partition(" ;")[0].split("==") for line in lines if re.match(r"[\w.-]+==", line)]
    needed = wanted([*project["dependencies"], *project["optional-dependencies"]["workflow"]])
    versions = {name: [version for one, version in locked if one == name] for name in needed}
    for name, one in needed.items():
        assert versions[name] and all(one.specifier.contains(version) for version in versions[name]), name
    (backend,) = PROJECT["build-system"]["requires"]
    assert wanted(rest.splitlines())["hatchling"] == Requirement(backend)
