"""A result that another experiment has is taken from there, whole and only if it is undamaged."""

import os
from pathlib import Path

import pytest

from lethe.files.images import MANIFEST, SHEET, TAR
from lethe.files.io import read_meta, result_folder, write_json
from lethe.stage.record import Recorder
from lethe.stage.reuse import settled

RECIPE = "0123456789"
NAME = "weights.safetensors"
HERE = Path(f"results/mine/weights/distill/b080-s0-{RECIPE}")
THERE = Path(f"results/other/weights/distill/b080-s0-{RECIPE}")


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another experiment's pruned and healed weights, and this one's pruned ones, of the same recipes."""
    monkeypatch.chdir(tmp_path)
    for experiment in ("other", "mine"):
        finish(Path(f"results/{experiment}/weights/pruned/b080-aaaaaaaaaa"), "aaaaaaaaaa", {})
    parents = {"pruned": Path("results/other/weights/pruned/b080-aaaaaaaaaa"), "base": Path("models/base")}
    finish(THERE, RECIPE, parents)
    return THERE


def finish(out: Path, recipe: str, parents: dict[str, Path]) -> None:
    recorder = Recorder("distill", 1, recipe, {}, parents)
    with result_folder(out) as part:
        (part / "unet").mkdir()
        (part / "unet" / NAME).write_text("numbers")
        (part / "log.csv").write_text("step\n")
        recorder.write(part)


def test_another_experiments_result_is_linked_and_names_own_parents(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settled(HERE, RECIPE)
    assert str(other) in capsys.readouterr().out
    assert os.path.samefile(HERE / "unet" / NAME, other / "unet" / NAME)
    mine, its = read_meta(HERE), read_meta(other)
    assert mine["parents"]["pruned"]["folder"] == "results/mine/weights/pruned/b080-aaaaaaaaaa"
    assert mine["parents"]["base"] == its["parents"]["base"]
    assert mine.pop("taken_from") == str(other)
    del mine["parents"], its["parents"]
    assert mine == its
    assert settled(HERE, RECIPE) and "finished" in capsys.readouterr().out


def test_what_people_edit_is_a_copy(other: Path) -> None:
    assert settled(HERE, RECIPE)
    with open(HERE / "log.csv", "a") as file:
        file.write("mine\n")
    assert (other / "log.csv").read_text() == "step\n"


def test_links_are_followed(other: Path, tmp_path: Path) -> None:
    (other / "unet" / NAME).rename(tmp_path / "cached")
    (other / "unet" / NAME).symlink_to(tmp_path / "cached")
    assert settled(HERE, RECIPE)
    assert not (HERE / "unet" / NAME).is_symlink() and (HERE / "unet" / NAME).read_text() == "numbers"


def test_one_that_tells_of_no_files_is_not_taken(other: Path) -> None:
    write_json(other / "meta.json", {"recipe": RECIPE, "parents": {}})
    assert not settled(HERE, RECIPE)


def test_where_no_links_are_made_files_are_copied(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    assert settled(HERE, RECIPE)
    assert (HERE / "unet" / NAME).read_text() == "numbers"
    assert not os.path.samefile(HERE / "unet" / NAME, other / "unet" / NAME)


def test_a_dry_run_tells_and_makes_nothing(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert settled(HERE, RECIPE, dry_run=True)
    assert "would be" in capsys.readouterr().out and not HERE.exists()


def test_a_damaged_result_is_not_taken(other: Path) -> None:
    (other / "unet" / NAME).write_text("changed")
    assert not settled(HERE, RECIPE) and not HERE.exists()


def test_an_unfinished_one_and_another_recipe_are_not_taken(other: Path) -> None:
    assert not settled(HERE.with_name("b080-s0-9876543210"), "9876543210")
    (other / "meta.json").unlink()
    assert not settled(HERE, RECIPE)


def test_a_folder_of_ones_own_choice_takes_nothing(other: Path, tmp_path: Path) -> None:
    assert not settled(Path("out"), RECIPE)
    assert not settled(tmp_path / HERE.name, RECIPE)


@pytest.mark.parametrize("sheet", [True, False])
def test_pictures_are_taken_with_their_sheet_or_as_they_were_made_before_there_were_any(tmp_path, monkeypatch, sheet):
    monkeypatch.chdir(tmp_path)
    there, here = (Path(f"results/{name}/samples/base/b-{RECIPE}") for name in ("other", "mine"))
    recorder = Recorder("sample", 1, RECIPE, {}, {})
    with result_folder(there) as part:
        for name in [TAR, MANIFEST, *([SHEET] if sheet else [])]:
            (part / name).write_text(name)
        recorder.write(part)
    assert settled(there, RECIPE) and settled(here, RECIPE)
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
    assert (here / SHEET).is_file() == sheet
