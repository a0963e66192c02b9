"""CONTRIBUTING.md followed to the letter, in a copy of the repository: its blocks make an eraser, run and prove it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.files.io import read_meta
from lethe.models import pipelines, unets
from tests import experiments

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
COMMAND = re.search(r"```bash\n(.*?)```", TEXT, re.DOTALL)[1]


def test_the_eraser_has_ten_lines():
    module = FILES[0][1].split('"""')[2]
    assert len([line for line in module.splitlines() if line.strip()]) == 10


def test_ten_lines_are_an_eraser(tmp_path, tiny_base):
    experiments.copy_repository(tmp_path)
    shutil.copytree(tiny_base, tmp_path / "models/atelier/pipeline")
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert "monet erased with pointing" in run(COMMAND)
    assert read_meta(tmp_path / "out/pointing")["eraser"] == {"concepts": 1}
    before = pipelines.load_base(str(tiny_base), None, ["unet"]).unet.state_dict()
    after = unets.load_unet(tmp_path / "out/pointing").state_dict()
    assert all(
        name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        for name in before
        if not before[name].equal(after[name])
    )
    assert any(not before[name].equal(after[name]) for name in before)
    assert "1 passed" in run(f"python -m pytest -n 0 -p no:cacheprovider {FILES[1][0]}")
    assert "pointing" in run("python -m stages.erase --help")
    run(
        f"ruff check {' '.join(name for name, _ in FILES)} && ruff format --check {' '.join(name for name, _ in FILES)}"
    )
