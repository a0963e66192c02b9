"""Snakemake and DVC on one real chain: every stage at smoke size on a tiny base, in a copy of the repository.

The chain is made once, by `dvc repro`; the tests ask both engines what they would do after a change, and let them do it
where it counts.
"""

import copy
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lethe.experiment import plan
from lethe.experiment.graph import Plan, arguments
from lethe.files.io import read_json, read_meta
from tests import experiments
from tests.tiny_judges import clip, resnet

ROOT = experiments.ROOT
ENV = os.environ | {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
NOTHING = Counter()
REPORT = {"plan": 1, "report": 1, "all": 1}

pytestmark = pytest.mark.slow


def run(root: Path, *words: str, code: int = 0) -> str:
    """Output of a command, which must end with `code`."""
    done = subprocess.run(words, cwd=root, env=ENV, capture_output=True, text=True)
    assert done.returncode == code, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def planned(root: Path, *words: str) -> Counter:
    """Jobs of a Snakemake dry run, by rule."""
    text = run(root, "snakemake", "-n", *words)
    if "Nothing to be done" in text:
        return NOTHING
    table = text.split("Job stats:\n")[1].split("\n\n")[0].splitlines()[2:]
    jobs = Counter({name: int(count) for name, count in map(str.split, table)})
    assert jobs.pop("total") == sum(jobs.values())
    return jobs


def stale(root: Path) -> set[str]:
    """Stages that DVC would run itself: those with changed parameters, code or inputs."""
    return set(json.loads(run(root, "dvc", "status", "--json").splitlines()[-1]))


def finished(root: Path) -> dict[str, tuple]:
    """Every finished result, with what tells whether it was touched."""
    files = sorted((root / "results").glob("**/meta.json"))
    return {str(f.parent.relative_to(root)): (f.stat().st_mtime_ns, f.stat().st_ino) for f in files}


def params_of(root: Path) -> dict:
    return yaml.safe_load((root / "params.yaml").read_text())


def plan_of(root: Path, monkeypatch) -> Plan:
    with monkeypatch.context() as here:
        here.chdir(root)
        return plan.build(params_of(root))


def change(root: Path, section: str, key: str, value: object) -> None:
    values = params_of(root)
    values[section][key] = value
    experiments.save(root, values)


def check_numbers(root: Path, found: Plan) -> None:
    """Every number of the report comes from results whose recorded options are those of the params file, all along."""
    stamps = list((root / "reports/atelier").glob("recipe-*.json"))
    assert [str(stamp.relative_to(root)) for stamp in stamps] == [found.stamp]
    assert read_json(stamps[0])["params"] == found.params
    for name, node in found.nodes.items():
        meta = read_meta(root / name)
        assert meta["recipe"] == node.recipe, name
        assert meta["options"] == node.options, name
        told = {role: parent.get("recipe") for role, parent in meta["parents"].items() if "recipe" in parent}
        mine = {role: parent.recipe for role, parent in node.parents.items() if hasattr(parent, "recipe")}
        assert {role: told[role] for role in mine} == mine, name


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> Path:
    """Judges that know the labels of this experiment."""
    folder = tmp_path_factory.mktemp("judges_of_all")
    resnet(folder / "style", ["van_gogh", "monet", "picasso", "munch", "cassatt", "braque"], 1)
    resnet(folder / "content", list(experiments.THINGS), 2)
    resnet(folder / "descriptor", None, 3)
    clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_base, tiny_pictures, judges) -> Path:
    """A git and DVC repository with the whole chain made, committed and pushed to a folder."""
    root, store = tmp_path_factory.mktemp("chain"), tmp_path_factory.mktemp("store")
    experiments.copy_repository(root)
    values = experiments.write(root, tiny_base, tiny_pictures, judges) | {"experiment": "atelier"}
    values["concepts"]["picasso"]["pictures"] = None  # drawn by the base model, for the scores to compare with
    values["attacks"]["arms"] = ["esd"]
    experiments.save(root, values)
    profile = root / "envs/local/config.yaml"
    profile.write_text(profile.read_text().replace("gpu=1", "gpu=2"))
    run(root, "git", "init", "-q")
    run(root, "dvc", "remote", "add", "-q", "-d", "store", str(store))
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", "Before")
    run(root, "dvc", "repro", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", "Results")
    run(root, "dvc", "push", "-q")
    return root


def test_the_chain_makes_what_was_planned(chain, monkeypatch):
    found = plan_of(chain, monkeypatch)
    assert set(finished(chain)) == set(found.nodes)
    assert {node.stage for node in found.nodes.values()} == {
        *("encode", "prune", "distill", "bilevel", "erase", "sample", "attack", "score"),
    }
    check_numbers(chain, found)
    assert {"index.html", "summary.json", "tables", "grids"} <= {p.name for p in (chain / "reports/atelier").iterdir()}
    left = [path.relative_to(chain / "state") for path in (chain / "state").rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} <= {"features", "hashes"}  # of real pictures and of files, for the next


def test_a_second_run_does_nothing(chain):
    before = finished(chain)
    assert "Nothing to be done" in run(chain, "snakemake", "--cores", "2")
    assert "up to date" in run(chain, "dvc", "repro")
    assert stale(chain) == set()
    assert finished(chain) == before


def test_changing_the_sampling_steps_retrains_nothing(chain):
    old = params_of(chain)
    change(chain, "sample", "steps", 3)
    try:
        # four arms and two rows of a table, and a concept's pictures, which the base model draws; an arm under attack
        assert planned(chain) == REPORT | {"sample": 7, "attack": 1, "score": 7}
        assert "weights" not in stale(chain)
        assert {"samples", "metrics", "report"} <= stale(chain)
    finally:
        experiments.save(chain, old)
    assert planned(chain) == NOTHING


def test_changing_the_upper_learning_rate_touches_only_bilevel_and_what_follows(chain):
    old = params_of(chain)
    change(chain, "bilevel", "upper_lr", 3.0e-3)
    try:
        assert planned(chain) == REPORT | {"bilevel": 1, "sample": 1, "score": 1}
        assert stale(chain) == {"weights", "samples", "metrics", "report"}
    finally:
        experiments.save(chain, old)
    assert stale(chain) == set()


def test_a_finished_stage_imports_no_torch(chain, monkeypatch):
    found, before = plan_of(chain, monkeypatch), finished(chain)
    for node in {node.stage: node for node in found.nodes.values()}.values():
        text = run(chain, sys.executable, "-X", "importtime", "-m", f"stages.{node.stage}", *arguments(node))
        assert not re.search(r"\| +(torch|diffusers|transformers|open_clip)$", text, re.MULTILINE), node.stage
    assert finished(chain) == before


def test_after_clone_pull_and_a_change_no_number_is_older_than_its_parameters(chain, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(chain), str(clone))
    run(clone, "dvc", "pull", "-q")
    assert planned(clone) == NOTHING
    assert stale(clone) == set()
    old, table, before = params_of(clone), (clone / "reports/atelier/tables/style.csv").read_text(), finished(clone)
    assert before.keys() == finished(chain).keys()

    change(clone, "bilevel", "upper_lr", 3.0e-3)
    wanted = plan_of(clone, monkeypatch)
    assert planned(clone) == REPORT | {"pictures": 1, "bilevel": 1, "sample": 1, "score": 1}
    run(clone, "dvc", "exp", "run", "-q", "-S", "bilevel.upper_lr=3.0e-3")
    assert "bilevel.upper_lr" in run(clone, "dvc", "params", "diff")
    changed = json.loads(run(clone, "dvc", "metrics", "diff", "--json"))["reports/atelier/summary.json"]
    assert changed and {name.split(".")[0] for name in changed} <= {"bilevel", "attacks", "solvers"}
    run(clone, "dvc", "plots", "diff", "-o", str(tmp_path / "plots"))
    assert {path.name.split("_")[0] for path in (tmp_path / "plots/static").iterdir()} == {"workspace", "HEAD"}
    after = finished(clone)
    assert {name: after[name] for name in before} == before, "what did not change was made again"
    assert {wanted.nodes[name].arm for name in after.keys() - before.keys()} == {"bilevel"}
    assert len(after) == len(before) + 3
    check_numbers(clone, wanted)
    assert (clone / "reports/atelier/tables/style.csv").read_text() != table
    assert planned(clone) == NOTHING
    assert stale(clone) == set()

    experiments.save(clone, old)
    assert planned(clone) == {"report": 1, "all": 1, "plan": 1}
    run(clone, "snakemake", "--cores", "2")
    run(clone, "dvc", "commit", "-q", "-f")
    assert stale(clone) == set()
    assert finished(clone) == after, "going back made a result again"
    check_numbers(clone, plan_of(clone, monkeypatch))
    assert (clone / "reports/atelier/tables/style.csv").read_text() == table

    listed = run(clone, sys.executable, "-m", "lethe.experiment.collect", "params.yaml", "--dry-run")
    assert finished(clone) == after
    gone = after.keys() - before.keys()
    assert {line.split(" ")[0] for line in listed.splitlines() if line.startswith("results/")} >= gone
    run(clone, sys.executable, "-m", "lethe.experiment.collect", "params.yaml")
    assert finished(clone) == before
    assert planned(clone) == NOTHING


def test_another_experiment_is_not_mixed_with_the_default_one(chain):
    values = params_of(chain)
    values["experiment"] = "other"
    values["concepts"] = {"chagall": values["concepts"]["van_gogh"]}
    values["grid"] |= {"sets": {"one": ["chagall"]}, "seeds": [3]}
    (chain / "params/other.yaml").write_text(yaml.safe_dump(values))
    text = run(chain, "snakemake", "-n", "--config", "params=params/other.yaml")
    made = set(re.findall(r"output: (\S+)/meta\.json", text))
    assert made and all(name.startswith("results/other/") for name in made)
    assert not [name for name in made if "monet" in name or "picasso" in name]
    assert any("/weights/bilevel/b080-one-s3-" in name for name in made)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--configfile", "params/wrong.yaml"], "distill.lr: '1e-4' is text"),
        (["--config", "params=params/wrong.yaml"], "distill.lr: '1e-4' is text"),
        (["--config", "params=params/absent.yaml"], "params/absent.yaml: no such params file"),
        (["--config", "sample={steps: 3}"], "--config: only params=FILE is known"),
    ],
)
def test_a_wrong_value_ends_in_one_line(chain, words, text):
    values = copy.deepcopy(params_of(chain))
    values["distill"]["lr"] = "1e-4"
    (chain / "params/wrong.yaml").write_text(yaml.safe_dump(values))
    output = run(chain, "snakemake", "-n", *words, code=2)
    lines = [line for line in output.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0], output


def test_a_judge_that_is_not_there_is_told_once_before_any_job(chain):
    values = copy.deepcopy(params_of(chain))
    values["experiment"], values["score"]["judges"]["style"] = "lacking", "models/typo"
    (chain / "params/lacking.yaml").write_text(yaml.safe_dump(values))
    text = run(chain, "snakemake", "-n", "--config", "params=params/lacking.yaml")
    assert text.count("warning: score.judges.style: models/typo: no such folder; ") == 1
    assert text.count("not run without it: ua, ira") == 1


def test_rules_pass_lint_and_format(chain):
    assert "in a good condition" in run(chain, "snakemake", "--lint")
    run(ROOT, "snakefmt", "--check", "Snakefile", "rules")
