"""A user's own experiment, from the template: another Stable Diffusion, forty pictures, a concept without any.

The base predicts epsilon and has other widths, heads, resolution and text length than atelier's, so a stage that
assumes atelier's fails here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from lethe.files import images
from lethe.files.io import read_json, read_meta
from lethe.models import pipelines, unets
from tests import experiments
from tests.tiny_judges import clip, resnet

pytestmark = pytest.mark.slow
CONTENTS = ("cat", "dog")


def forty_pictures(folder: Path) -> None:
    """Pictures of mixed sizes and formats, two captions in turn."""
    folder.mkdir(parents=True)
    draws, lines = np.random.default_rng(0), []
    for i in range(40):
        height, width = draws.integers(50, 120, 2)
        name = f"picture {i}.{'jpg' if i % 2 else 'png'}"
        mode = "RGBA" if i == 2 else "L" if i == 4 else "RGB"
        Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"a {CONTENTS[i % 2]} on a chair"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def prompts(path: Path, count: int, seed: int) -> None:
    """Only the columns that must be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i},a {CONTENTS[i % 2]} by my artist,{seed + i}" for i in range(count)]
    path.write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory, other_base) -> Path:
    """A copy of the repository in which the template was filled in and run."""
    root = tmp_path_factory.mktemp("own")
    experiments.copy_repository(root)
    forty_pictures(root / "data/own/finetune")
    forty_pictures(root / "data/own/eval")
    for number, name in enumerate(("my_style", "retain", "eval")):
        prompts(root / f"prompts/own/{name}.csv", 4, 100 * number)
    (root / "models/own").mkdir(parents=True)
    clip(root / "models/own/clip")
    resnet(root / "models/own/features", ["a", "b"], 1)
    values = yaml.safe_load((root / "params/own.yaml").read_text())
    values["base"] |= {"path": str(other_base), "resolution": 32}  # its own is 48
    values["encode"] = {"generated": 3}
    values["distill"] |= {"steps": 2, "batch": 2}
    values["bilevel"] |= {"upper_every": 2, "upper_batch": 2}
    values["erase"]["esd"] |= {"steps": 2, "batch": 2, "sampler_steps": 2}
    values["sample"] = {"steps": 2, "tile": 4}
    values["score"] |= {"clip": "local-dir:models/own/clip", "features": "models/own/features", "kid_subsets": 2}
    values["report"] = {"bootstrap": 20, "grid_prompts": 2}
    (root / "params/mine.yaml").write_text(yaml.safe_dump(values))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["snakemake", "--cores", "2", "--config", "params=params/mine.yaml", "--max-threads", "1"],
        cwd=root,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def only(root: Path, pattern: str) -> Path:
    """The one folder that matches."""
    found = list((root / "results/my_experiment").glob(pattern))
    assert len(found) == 1, found
    return found[0]


def test_the_pruned_model_has_the_budget_and_the_base_s_form(made, other_base):
    folder = only(made, "weights/pruned/*")
    macs = read_meta(folder)["macs"]
    assert abs(macs["kept"] / macs["dense"] - 0.80) <= 0.01
    dense = pipelines.load_base(str(other_base), None, ["unet", "scheduler"])
    assert dense.scheduler.config.prediction_type == "epsilon"
    pruned = unets.load_unet(folder)
    assert pruned.config.block_out_channels == dense.unet.config.block_out_channels
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in dense.unet.parameters())


def test_one_resolution_holds_for_every_step(made):
    assert read_json(only(made, "weights/pruned/*") / "unet/pruning.json")["latent_shape"] == [4, 8, 8]
    assert read_json(only(made, "encode/frozen/finetune-*") / "index.json")["resolution"] == 32
    (folder,) = (made / "results/my_experiment/samples/esd").iterdir()
    with images.Images(folder) as drawn:
        assert drawn.picture(drawn.entries[0]).size == (32, 32)


def test_a_concept_without_pictures_is_drawn_by_the_base(made):
    drawn = pd.read_csv(only(made, "samples/base/pictures-my_style-*") / "manifest.csv")
    assert list(drawn.prompt) == ["a painting by my artist"] * 3
    encoded = read_json(only(made, "encode/frozen/my_style-*") / "index.json")
    assert encoded["captions"] == ["a painting by my artist", "a painting"]
    assert len(read_json(only(made, "encode/frozen/finetune-*") / "index.json")["files"]) == 40


def test_the_table_has_every_arm_and_what_can_be_measured_without_judges(made):
    table = pd.read_csv(made / "reports/my_experiment/tables/style.csv")
    ours = table[table.arm.isin(["base", "pruned", "distill", "bilevel", "esd"]) & table.macs_kept.notna()]
    assert set(ours.arm) >= {"pruned", "distill", "bilevel", "esd"}
    assert ours[["clip", "fid", "clip_retain"]].notna().all(axis=None)
    assert "ua" not in ours or ours.ua.isna().all(), "there is no judge of styles"
    assert (made / "reports/my_experiment/grids/style.png").is_file()
    assert "my_style" in (made / "reports/my_experiment/index.html").read_text()
