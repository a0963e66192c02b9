"""Stages as processes that start in milliseconds: forked from one that has imported what they need.

Each is a process of its own that runs `python -m stages.NAME`; it can be killed at any moment, and what it lives for is
work alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import gc, importlib, json, os, pkgutil, runpy, sys
import lethe
apart = ("lethe.__main__", "lethe.bench", "lethe.atelier", "lethe.emoji", "lethe.pretraining")
for found in pkgutil.walk_packages(lethe.__path__, "lethe."):
    if not found.name.startswith((*apart, "lethe.measuring.detectors")):
        importlib.import_module(found.name)
import open_clip
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import AutoImageProcessor, CLIPTextModel, CLIPTokenizer, ResNetForImageClassification, ResNetModel
lethe.params.rules.schema()
gc.collect()
gc.freeze()  # or each child copies all memory when it ends
threads = os.listdir("/proc/self/task")
assert len(threads) == 1, f"{len(threads)} threads: a fork would lack all but one"
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if not child:
        break
    print(child, flush=True)
else:
    sys.exit()
os.chdir(asked["cwd"])
log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(log, 1), os.dup2(log, 2)
sys.argv = asked["argv"]
runpy.run_module(f"stages.{asked['argv'][0]}", run_name="__main__", alter_sys=True)
"""


@dataclass
class Child:
    """A running stage; `log` is what it printed on both streams."""

    nursery: "Nursery"
    pid: int
    log: Path

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it stays a zombie until `wait`, so the number is nobody else's

    def wait(self) -> int:
        """Exit code, or minus the signal."""
        return int(self.nursery.ask({"wait": self.pid}))

    def within(self, seconds: float) -> bool:
        """Whether it ends in that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            time.sleep(0.001)
        return False

    def said(self) -> str:
        return self.log.read_text()


class Nursery:
    """A context manager. Children work in the folder `cwd`, on one thread."""

    def __init__(self, cwd: Path):
        self.cwd, self.count = cwd, 0
        own = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        own |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=ROOT,
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, what: dict) -> str:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self, name: str, words: Sequence[object]) -> Child:
        self.count += 1
        log = self.cwd / f"{self.count:04d}-{name}.txt"
        asked = {"argv": [name, *map(str, words)], "cwd": str(self.cwd), "log": str(log)}
        return Child(self, int(self.ask(asked)), log)

    def run(self, name: str, words: Sequence[object]) -> tuple[int, str]:
        """Exit code and output of a stage that is left alone."""
        child = self.start(name, words)
        return child.wait(), child.said()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
