"""What stands around results: times of files, leftovers of killed runs, a place for logs that is none."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lethe.experiment import collect, plan
from lethe.experiment.graph import made_marker
from lethe.files.errors import UserError
from lethe.files.io import write_json
from lethe.stage import alone
from tests import experiments
from tests.faults.commands import traces

ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
NOTHING = "Nothing to be done"
YEARS = (946684800, 2145916800)  # 2000 and 2038


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_base, tiny_pictures):
    """An experiment whose results and report stand there, though nobody made them, and its plan."""
    root = tmp_path_factory.mktemp("workflow")
    experiments.copy_repository(root)
    values = experiments.write(root, tiny_base, tiny_pictures)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        subprocess.run(values["pictures"]["make"], shell=True, check=True)
        found = plan.build(values)
        for node in found.nodes.values():
            write_json(Path(node.meta), {"recipe": node.recipe})
        report = Path(found.stamp).parent
        for path in (made_marker(values), found.stamp, report / "index.html", *report_tables(report)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        write_json(Path(found.file), found.as_json())
    return root, found


def report_tables(report: Path) -> list[Path]:
    return [report / "tables" / name for name in ("style.csv", "style_paired.csv")]


def snakemake(root: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what it says on both streams."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(["snakemake", *words], cwd=root, env=ENV, **how)
    return done.returncode, done.stdout


def test_a_clock_set_back_or_ahead_makes_nothing_again(finished):
    root, found = finished
    nodes = [root / node.meta for node in found.nodes.values()]
    for number, path in enumerate([*nodes, root / found.file, root / found.stamp]):
        os.utime(path, (YEARS[number % 2],) * 2)
    os.utime(root / "params.yaml", (YEARS[1],) * 2)
    assert NOTHING in snakemake(root, "-n")[1]
    for number, path in enumerate([*nodes, root / found.file, root / found.stamp]):
        os.utime(path, (YEARS[1 - number % 2],) * 2)
    assert NOTHING in snakemake(root, "-n")[1]


def test_what_killed_runs_left_is_collected_and_nothing_else(finished, monkeypatch, capsys):
    root, found = finished
    monkeypatch.chdir(root)
    nodes = list(found.nodes.values())
    done, waiting = nodes[0], nodes[-1]
    Path(waiting.meta).rename("kept.json")
    gone = "0123456789"
    log = Path("logs", found.params["experiment"], "weights/esd") / f"b080-all-s0-{gone}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    left = [
        Path("state") / done.recipe,
        Path("state") / gone,
        Path(f"{done.folder}.part-77"),
        Path(f"reports/{found.params['experiment']}.part-77"),
    ]
    stays = [Path("state") / waiting.recipe, Path("state/fedcba9876"), Path("state/features"), Path("state/pretrain")]
    for folder in [*left, *stays]:
        folder.mkdir(parents=True)
        (folder / "x").touch()
    monkeypatch.setattr("sys.argv", ["collect", "params.yaml"])
    with alone.alone(done.folder), pytest.raises(UserError, match=r"state/locks/\w+: held by a stage that works here"):
        collect.main()
    assert all(folder.is_dir() for folder in left)
    collect.main()
    assert not any(folder.exists() for folder in left)
    assert all((folder / "x").is_file() for folder in stays)
    assert {line.split(" (")[0] for line in capsys.readouterr().out.splitlines()[:-1]} >= set(map(str, left))
    Path("kept.json").rename(waiting.meta)
    assert all(Path(node.meta).is_file() for node in nodes)


def test_a_place_for_logs_that_is_none_is_one_line_before_any_job(finished):
    root, found = finished
    stamp = root / found.stamp
    stamp.rename(root / "kept.json")
    (root / "logs").mkdir(exist_ok=True)
    (root / "logs").rename(root / "logs.away")
    (root / "logs").write_text("in the way")
    code, said = snakemake(root, "--cores", "1")
    (root / "logs").unlink()
    (root / "kept.json").rename(stamp)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    wanted = "error: logs: cannot be written: a file stands where a folder is wanted; move it away, then run again"
    assert (code, lines) == (3, [wanted]), said
    assert "Traceback" not in said and "rule plan" not in said
    assert NOTHING in snakemake(root, "-n")[1], "it left a lock, or took something away"


def test_an_experiment_of_unsafe_concepts_promises_no_table_of_styles(finished):
    root, _ = finished
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["experiment"], values["score"]["judges"]["unsafe"] = "unsafe", values["score"]["judges"]["style"]
    for concept in values["concepts"].values():
        concept |= {"kind": "unsafe", "neighbours": []}
    (root / "params/unsafe_only.yaml").write_text(yaml.safe_dump(values))
    code, said = snakemake(root, "-n", "--config", "params=params/unsafe_only.yaml")
    assert code == 0, said
    assert "tables/unsafe.csv" in said and "tables/unsafe_paired.csv" in said and "tables/style" not in said


def test_a_failed_job_is_told_with_what_to_do(finished):
    root, found = finished
    node = next(node for node in found.nodes.values() if node.stage == "score")
    kept = Path(root / node.meta).rename(root / "kept.json")
    stage = root / "stages/score.py"
    whole = stage.read_text()
    end = "raise SystemExit('slurmstepd: error: StepId=1.0 exceeded memory limit (2 > 1), being killed')"
    stage.write_text(f"if __name__ == '__main__':\n    {end}\n{whole}")
    code, said = snakemake(root, "--cores", "1", node.meta)
    stage.write_text(whole)
    Path(root / node.meta).parent.mkdir(parents=True, exist_ok=True)
    kept.rename(root / node.meta)
    assert code == 1 and "Traceback" not in said and "TypeError" not in said, said
    assert "advice: a job needed more memory than it had asked for: raise mem_mb of its rule" in said


WHILE_AWAY = """
if __name__ == "__main__":
    import os, pathlib, time

    pathlib.Path("working").touch()
    while not os.path.exists("go on"):
        time.sleep(0.05)
    os.makedirs(os.path.dirname("{meta}"), exist_ok=True)
    os.rename("kept.json", "{meta}")
    raise SystemExit
"""


def test_what_a_job_made_after_its_snakemake_was_killed_is_not_made_again(finished):
    root, found = finished
    node = next(node for node in found.nodes.values() if node.stage == "score")
    Path(root / node.meta).rename(root / "kept.json")
    stage = root / "stages/score.py"
    whole = stage.read_text()
    stage.write_text(WHILE_AWAY.format(meta=node.meta) + whole)
    words = ["snakemake", "--cores", "1", node.meta]
    with subprocess.Popen(words, cwd=root, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        wait_for(root / "working")
        code, said = snakemake(root, "--cores", "1", node.meta)  # a second one beside it
        assert code == 1 and "Directory cannot be locked" in said and "Traceback" not in said, said
        parent.kill()
    (root / "go on").touch()
    wait_for(root / node.meta)
    stage.write_text(whole)
    before = traces(Path(root / node.meta).parent)
    assert snakemake(root, "--unlock")[0] == 0
    code, said = snakemake(root, "--cores", "1", node.meta)
    assert code == 0 and NOTHING in said, said
    assert traces(Path(root / node.meta).parent) == before


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


def test_jobs_find_their_python_where_no_environment_was_activated(finished):
    root, found = finished
    kept = Path(root / found.file).rename(root / "kept_plan.json")
    command = [Path(sys.executable).parent / "snakemake", "--cores", "1", found.file]
    bare = {"PATH": "/nowhere", "HOME": str(root)}
    shell = {"PATH": f"{bare['PATH']}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    done = subprocess.run(command, cwd=root, env=bare | shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(root / found.file).read_bytes() == kept.read_bytes()
