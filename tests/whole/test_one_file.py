"""A metric is one file: dropped into lethe/measuring/metrics, it is measured, tabled, and its name is taken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BRIGHTNESS = '''
"""Mean brightness of a picture, 0 to 255."""

import numpy as np

from lethe.measuring.looking import Look
from lethe.measuring.values import mean

VERSION = 3
NEEDS = ("clip",)
METRICS = {
    "brightness": {
        "label": "Bright",
        "unit": "of 255",
        "direction": "up",
        "digits": 1,
        "rows": "erased",
        "column": "brightness",
        "place": 15,
        "meaning": "mean of all channels",
    }
}


def looks(work):
    return {"brightness": Look(lambda batch: np.array([np.array(picture).mean() for picture in batch]))}


def protocol(work):
    return {"channels": 3}


def measure(work, table):
    found = work.seen["brightness"]
    return {"brightness": found}, {"brightness": mean(found[work.is_erased(table)])}
'''
PROOF = """
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import lethe
from lethe.measuring import scoring
from lethe.measuring.work import Work
from lethe.params import variation
from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.report import markup, tables
from lethe.report.columns import measured
from lethe.report.tables import PUBLISHED
from lethe.report.reading import read_plan
from tests import fabricated, tiny_judges

root, pictures = Path(sys.argv[1]), Path(sys.argv[2])
assert str(root) in lethe.__path__[0]
section = tiny_judges.section(tiny_judges.judges(root / "judges"))
with Images(tiny_judges.write_samples(root / "samples", 1)) as images:
    concepts, sets = tiny_judges.concepts(pictures), tiny_judges.SETS
    work = Work(images, sets, concepts, ["monet"], None, pictures, section, torch.device("cpu"))
    found = scoring.score(work)
    wanted = np.mean([np.array(images.picture(entry)).mean() for entry in images.entries if entry.set == "monet"])
own = found.metrics["brightness"]
assert abs(own["value"] - wanted) < 1e-3 and own["n"] == 6 and own["lo"] < own["value"] < own["hi"]
assert (own["version"], own["unit"], own["protocol"]["channels"]) == (3, "of 255", 3)
assert found.table["brightness"].notna().all()

def scored(arm, seed, table):
    return fabricated.scored(arm, seed, table).assign(brightness=[100.0 + n % 7 for n in range(len(table))])

plan = read_plan(fabricated.experiment(root / "fabricated", count=6, side=8, score=scored))
group = measured(plan.groups, 50, "style")
table = tables.style(group, PUBLISHED / "style.csv")
row = table.set_index("arm").loc["esd"].iloc[0]
assert row["brightness_lo"] < row["brightness"] < row["brightness_hi"], row
text = tables.style_text(table)
assert text.header.index("CLIP ↓") < text.header.index("Bright ↑") < text.header.index("CP ↑")
assert "Bright ↑: mean of all channels, of 255" in text.notes
assert {"brightness", "brightness_lo", "brightness_hi"} <= variation.TAKEN
try:
    variation.check_names({"one": {"vary": {"brightness": {}}}}, [])
except UserError as error:
    assert "is the name of a column of the report" in str(error)
else:
    raise AssertionError("the name is free")
print("measured and tabled")
"""


def test_a_metric_is_one_file(tmp_path, tiny_pictures):
    for name in ("lethe", "tests", "stages", "params.yaml"):
        there, ignore = tmp_path / name, shutil.ignore_patterns("__pycache__")
        there.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / name, there, ignore=ignore) if (ROOT / name).is_dir() else shutil.copy(
            ROOT / name, there
        )
    (tmp_path / "lethe" / "measuring" / "metrics" / "brightness.py").write_text(BRIGHTNESS)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", PROOF, str(tmp_path), str(tiny_pictures)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("measured and tabled")
