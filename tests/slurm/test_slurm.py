"""The shipped cluster profile on a real SLURM of one machine: the whole chain, with the faults that clusters have.

One workflow meets them all: a job that fails once, one that is stopped at its time limit and goes on, one that needs
more memory than it asked for, and a Snakemake that is killed and started again while jobs run.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lethe.experiment import plan
from lethe.files.io import read_meta, sha256
from tests import experiments
from tests.slurm import cluster
from tests.tiny_judges import clip, resnet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cluster.missing() is not None, reason=str(cluster.missing())),
]
BIN = Path(sys.executable).parent
MEMORY = {"mem_mb": 1500, "runtime": 10}
RULES = ("pictures", "encode", "prune", "distill", "bilevel", "erase", "sample", "attack", "score", "report")


@pytest.fixture(scope="module")
def slurm():
    """Short paths only: a socket's ends at 107 characters."""
    home = Path(f"/tmp/lethe-slurm-{os.getpid()}")
    try:
        with cluster.Cluster(home) as found:
            yield found
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_base, tiny_pictures, slurm) -> Path:
    """The repository with a tiny experiment, and the shipped profile with this machine's sizes."""
    folder, judges = tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("judges")
    resnet(judges / "style", ["van_gogh", "monet", "picasso", "munch", "cassatt", "braque"], 1)
    resnet(judges / "content", list(experiments.THINGS), 2)
    resnet(judges / "descriptor", None, 3)
    clip(judges / "clip")
    experiments.copy_repository(folder)
    values = experiments.write(folder, tiny_base, tiny_pictures, judges)
    values["pictures"]["make"] = f"[ -e tried ] || {{ touch tried; exit 1; }}; {values['pictures']['make']}"
    values["distill"] |= {"steps": 400}
    values["tables"], values["grid"]["arms"] = {}, ["base", "distill"]
    experiments.save(folder, values)
    profile = yaml.safe_load((folder / "envs/slurm/config.yaml").read_text())
    profile["set-resources"] = {rule: MEMORY | profile["set-resources"].get(rule, {}) for rule in RULES}
    profile["set-resources"]["distill"] = MEMORY | {"runtime": 1}
    profile["set-resources"]["score"] = MEMORY | {"mem_mb": 200}  # far too little for any network
    profile |= {
        "latency-wait": 5,
        "retries": 1,
        "slurm-init-seconds-before-status-checks": 3,
        "set-threads": dict.fromkeys(RULES, 1),
    }
    (folder / "envs/slurm/config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def environment(slurm) -> dict:
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return own | slurm.environment | {"PATH": f"{BIN}{os.pathsep}{slurm.environment['PATH']}", "OMP_NUM_THREADS": "1"}


def started(root: Path, slurm, *words: str) -> subprocess.Popen:
    log = open(root / "snakemake.log", "a")  # noqa: SIM115, closed with the process
    words = ["snakemake", "--workflow-profile", "envs/slurm", *words]
    return subprocess.Popen(words, cwd=root, env=environment(slurm), stdout=log, stderr=log, start_new_session=True)


def wait_for(what: str, found, process: subprocess.Popen, root: Path, seconds: float = 400) -> object:
    end = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        told = (root / "snakemake.log").read_text()[-4000:]
        assert process.poll() is None, f"ended before {what}: {told}"
        assert time.monotonic() < end, f"no {what} after {seconds} s: {told}"
        time.sleep(0.2)


def training(root: Path) -> int | None:
    """Process of the distilling stage once it has taken its first step."""
    logs = list((root / "logs").glob("*/weights/distill/*.log"))
    if not any("\nstep " in log.read_text() for log in logs):
        return None
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            here = os.readlink(place / "cwd")
        except OSError:
            continue
        if b"stages.distill" in words and words[0].endswith(b"python") and here == str(root):
            return int(place.name)
    return None


def finished(root: Path) -> dict[str, tuple[int, int]]:
    """Every finished result, with what changes when it is made again."""
    files = (root / "results").glob("**/meta.json")
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_the_chain_survives_what_clusters_do(root, slurm, monkeypatch):
    first = started(root, slurm)
    pid = wait_for("training", lambda: training(root), first, root)
    own = dict(word.split(b"=", 1) for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in word)
    assert own[b"CUDA_VISIBLE_DEVICES"] in (b"0", b"1")  # one of the node's two
    assert re.search(r"TresPerJob=gres:gpu:1\b", slurm.call("scontrol", "show", "job", "-o"))

    # the parent dies, its jobs run on; started again at once it makes nothing twice
    os.kill(pid, signal.SIGSTOP)  # until its limit of one minute: SLURM continues a job before it tells it to end
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    made = finished(root)
    assert made, "nothing had ended before the training"
    unlock = ["snakemake", "--workflow-profile", "envs/slurm", "--unlock"]
    subprocess.run(unlock, cwd=root, env=environment(slurm), check=True, capture_output=True)
    second = started(root, slurm)
    assert second.wait(600) == 1  # score has too little memory
    text = (root / "snakemake.log").read_text()
    assert made.items() <= finished(root).items()
    made = finished(root)

    # failed once, tried again
    assert (root / "tried").exists() and (root / "data/atelier/finetune").is_dir()
    # stopped at the time limit, state saved, gone on
    ended = "\n".join(slurm.finished())
    assert "TIMEOUT" in ended
    (log,) = (root / "logs").glob("*/weights/distill/*.log")
    # of a job that ended as its limit came, SLURM says TIMEOUT too, and the next finds the result
    assert re.search(r"going on from step|: finished, recipe", log.read_text())
    # too little memory: said in words
    assert "exceeded memory limit" in text
    assert "advice: a job needed more memory than it had asked for: raise mem_mb of its rule" in text

    profile = yaml.safe_load((root / "envs/slurm/config.yaml").read_text())
    profile["set-resources"]["score"] = MEMORY
    (root / "envs/slurm/config.yaml").write_text(yaml.safe_dump(profile))
    third = started(root, slurm)
    assert third.wait(600) == 0, (root / "snakemake.log").read_text()[-4000:]
    assert made.items() <= finished(root).items()
    monkeypatch.chdir(root)
    found = plan.build(yaml.safe_load((root / "params.yaml").read_text()))
    assert all(read_meta(root / name)["recipe"] == node.recipe for name, node in found.nodes.items())
    assert (root / found.stamp).is_file()
    assert same_as_undisturbed(root, found)
    check_refusals(root, slurm, root / found.stamp)


def check_refusals(root: Path, slurm, stamp: Path) -> None:
    """A partition that is none, GPUs that no node has, no cluster at all: what to do is said, and nothing is lost."""
    stamp.unlink()
    before, absent = finished(root), {key: value for key, value in environment(slurm).items() if key != "SLURM_CONF"}
    absent["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    for env, words, told in (
        (
            environment(slurm),
            ["--set-resources", "report:slurm_partition=nowhere"],
            "the cluster has no such partition",
        ),
        (environment(slurm), ["--set-resources", "report:gpu=9"], "no node has what a job asks for"),
        (absent, [], "no SLURM answers here"),
    ):
        command = ["snakemake", "--workflow-profile", "envs/slurm", "--retries", "0", *words]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 1 and f"advice: {told}" in said and "Traceback" not in said, said
    assert finished(root) == before


def same_as_undisturbed(root: Path, found) -> bool:
    """The weights that were stopped and resumed are those of a run that was not."""
    from lethe.experiment.graph import arguments

    (node,) = (node for node in found.nodes.values() if node.stage == "distill")
    words = arguments(node)
    words[words.index("--out") + 1] = "undisturbed"
    command = [sys.executable, "-m", "stages.distill", *words, "--threads", "1", "--device", "cpu"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    name = "unet/diffusion_pytorch_model.safetensors"
    return sha256(root / "undisturbed" / name) == sha256(root / node.folder / name)
