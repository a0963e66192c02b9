"""What a stage is given is looked over before a base model is loaded or fetched."""

import sys

import pytest

from lethe.files.errors import UserError
from lethe.files.io import write_json
from lethe.models import pipelines
from lethe.stage import parents
from tests.stages.running import stage

HUB = ["--base", "owner/name", "--revision", "0" * 40]


@pytest.fixture
def drawn(tmp_path):
    (tmp_path / "drawn").mkdir()
    write_json(tmp_path / "drawn/meta.json", {"recipe": "0123456789", "stage": "sample"})
    return tmp_path / "drawn"


def test_it_says_what_a_folder_is(drawn):
    for role in ("data", "concept:monet"):
        with pytest.raises(UserError, match="drawn: a result of stage sample, and encoded pictures are wanted"):
            parents.check({role: drawn}, "owner/name")
    for role in ("model", "pruned", "teacher"):
        with pytest.raises(UserError, match="drawn: a result of stage sample, which holds no U-Net"):
            parents.check({role: drawn}, "owner/name")
    parents.check({"originals": drawn}, "owner/name")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prune", ["--budget", "0.8", "--model", "{}"]),
        ("distill", ["--pruned", "{}", "--data", "{}"]),
        ("bilevel", ["--pruned", "{}", "--data", "{}", "--concepts", "monet={}"]),
        ("erase", ["--eraser", "esd", "--model", "{}", "--concepts", '{{"m": {{"prompt": "a b", "anchor": "a"}}}}']),
        ("encode", ["--pictures", "{}/nowhere"]),
        ("sample", ["--prompt", "a", "--model", "{}"]),
    ],
)
def test_nothing_is_fetched_for_a_command_whose_inputs_are_wrong(drawn, tmp_path, monkeypatch, name, words):
    def fetched(*_):
        raise AssertionError("fetched")

    monkeypatch.setattr(pipelines, "load_base", fetched)
    monkeypatch.setattr(sys.modules["lethe.models.pipelines"], "_check_hub_index", fetched)
    with pytest.raises(UserError, match=r"drawn"):
        stage(name, *HUB, *(word.format(drawn) for word in words), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
