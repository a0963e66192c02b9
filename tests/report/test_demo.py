"""The demo: a sheet of pictures by weights that are small and committed, or by the experiment's own results."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from lethe.experiment import plan
from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.files.io import META, read_meta, write_json
from lethe.models import unets
from lethe.params import options
from lethe.report import demo, demo_weights, grids
from tests import experiments
from tests.stages.running import PRUNE, stage

ARMS = ["base", "distill", "uce", "bilevel"]
ROWS = [*ARMS, "bilevel ours"]  # a row of the table solvers


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_base, tiny_pictures) -> Path:
    """An experiment whose trained weights are there: pruned ones in their place."""
    root = tmp_path_factory.mktemp("demo")
    values = experiments.write(root, tiny_base, tiny_pictures)
    values["grid"]["arms"] = ARMS
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("finetune", "eval", "concept/monet"):
            shutil.copytree(tiny_pictures, root / "data/atelier" / name)
        experiments.save(root, values)
        stage("prune", "--base", "models/atelier/pipeline", "--budget", 0.8, "--out", "pruned", **PRUNE)
        for node in demo_weights.trained(demo_weights.rows(planned(root)).values()):
            shutil.copytree(root / "pruned", root / node.folder)
            write_json(root / node.folder / META, read_meta(root / "pruned") | {"recipe": node.recipe})
    return root


def planned(root: Path) -> plan.Plan:
    return plan.build(options.load(root / "params.yaml"))


@pytest.fixture
def root(finished, tmp_path, monkeypatch) -> Path:
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return root


def called(module, monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lethe demo", *words])
    module.main()


def test_small_weights_are_the_results_in_float16(root, monkeypatch, capsys):
    called(demo_weights, monkeypatch)
    found = planned(root)
    for node in demo_weights.trained(demo_weights.rows(found).values()):
        small = demo_weights.small(found, node)
        assert small == Path("models/atelier/demo", node.arm, node.folder.name)
        meta = read_meta(small)
        assert meta["origin"]["recipe"] == node.recipe != meta["recipe"]
        assert meta["parents"]["base"]["folder"] == "models/atelier/pipeline"
        size, own = ((folder / "unet/diffusion_pytorch_model.safetensors") for folder in (small, node.folder))
        assert size.stat().st_size < 0.6 * own.stat().st_size
        whole = unets.load_unet(node.folder).state_dict()
        for key, value in unets.load_unet(small).state_dict().items():
            assert value.equal(whole[key].half().float())
    assert capsys.readouterr().out.count("in float16") == 3


def test_the_sheet_has_a_row_an_arm_and_a_column_a_seed(root, monkeypatch, capsys):
    called(demo_weights, monkeypatch)
    shutil.rmtree(root / "results")
    words = ("params.yaml", "--count", "2", "--device", "cpu")
    called(demo, monkeypatch, *words)
    lines = capsys.readouterr().out.splitlines()
    sheet = Path(lines[-1])
    assert sheet.is_file() and sheet.parts[:2] == ("results", "demo")
    for name in ROWS:
        with Images(sheet.parent / name.replace(" ", "-")) as images:
            told = [(entry.set, entry.prompt, entry.evaluation_seed) for entry in images.entries]
            assert told == [(own, text, seed) for own, text in demo.prompts(planned(root)).items() for seed in (0, 1)]
        made = read_meta(sheet.parent / name.replace(" ", "-"))["parents"]
        folder = made.get("model", made["base"])["folder"]
        assert f"{name}: {folder}" in lines
        assert folder.startswith({"base": "models/atelier/pipeline", "uce": "results/demo/uce-"}.get(name, "models/"))
    with Image.open(sheet) as picture:
        keys = tuple((own, seed) for own in ("forget", "keep") for seed in (0, 1))
        rows = {name: grids.pictures(sheet.parent / name.replace(" ", "-"), keys) for name in ROWS}
        sections = [grids.Section("", "kept", keys[:2]), grids.Section("", "kept", keys[2:])]
        assert picture.size == grids.sheet(rows, sections)[1].size
    called(demo, monkeypatch, *words)
    again = capsys.readouterr().out.splitlines()
    assert again[-1] == str(sheet) and sum("finished" in line for line in again) == len(ROWS) + 1  # and uce


def test_finished_results_go_before_small_weights(root, monkeypatch):
    called(demo_weights, monkeypatch)
    found = planned(root)
    node = demo_weights.rows(found)["distill"]
    assert demo.weights(found, "distill", node, []) == node.folder
    shutil.rmtree(node.folder)
    assert demo.weights(found, "distill", node, []) == demo_weights.small(found, node)


def test_weights_that_are_nowhere_are_one_line(root, monkeypatch):
    shutil.rmtree(root / "results")
    with pytest.raises(
        UserError, match=r"distill: no weights at results/.*, nor at models/atelier/demo/.*lethe tables"
    ):
        called(demo, monkeypatch)
    with pytest.raises(UserError, match=r"results/.*no finished result there"):
        called(demo_weights, monkeypatch)
    with pytest.raises(UserError, match="--count: 17 is not between 1 and 16"):
        called(demo, monkeypatch, "--count", "17")


def test_prompts_are_the_first_of_their_lists_or_ones_own(root, monkeypatch, tmp_path):
    found = planned(root)
    assert demo.prompts(found) == {"forget": "a boat by monet", "keep": "a boat by van gogh"}
    found.params["concepts"]["monet"]["neighbours"] = ["monet"]
    assert demo.prompts(found)["keep"] == "a house by monet"
    demo.write_prompts(tmp_path / "own.csv", 'a "boat", by monet', 2)
    assert (tmp_path / "own.csv").read_text().splitlines()[1:] == [
        '0,"a ""boat"", by monet",0',
        '1,"a ""boat"", by monet",1',
    ]
