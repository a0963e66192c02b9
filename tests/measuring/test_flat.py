import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lethe.files import io
from lethe.files.errors import UserError
from lethe.files.images import Images
from lethe.measuring import flat
from lethe.texts.rows import Prompt

ROWS = [Prompt(7, "a boat", 3), Prompt(0, "a house", 4), Prompt(12, "a tree", 5)]


def draw(folder: Path, *names: str, size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.full((*size, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def gather(folder: Path, number: int | None = None) -> flat.Flat:
    source = folder.parent / "monet.csv"
    source.write_text("case_number,prompt,evaluation_seed\n")
    return flat.gather({"monet": folder}, {"monet": source}, {"monet": ROWS}, number)


@pytest.mark.parametrize("names", [("7.png", "0.png", "12.png"), ("7_0.png", "0_0.PNG", "0012.jpg")])
def test_becomes_a_samples_folder_byte_for_byte(tmp_path, names):
    folder = draw(tmp_path / "drawn", *names)
    (folder / "args.json").write_text("{}")
    (folder / ".hidden.png").write_text("no picture")
    out = tmp_path / "out"
    assert gather(folder).write(out) == f"{out}: 3 pictures, copied"
    with Images(out) as images:
        images.check_complete()
        assert [(e.set, e.case_number, e.prompt, e.evaluation_seed) for e in images.entries] == [
            ("monet", row.case_number, row.prompt, row.seed) for row in ROWS
        ]
        assert [images.read(entry) for entry in images.entries] == [(folder / name).read_bytes() for name in names]
    meta = io.read_meta(out)
    assert meta["stage"] == "pictures" and meta["pictures"] == 3
    assert gather(folder).write(out) == f"{out}: finished, recipe {io.read_meta(out)['recipe']}"


def test_its_recipe_is_that_of_the_pictures_content(tmp_path):
    folder = draw(tmp_path / "drawn", "7.png", "0.png", "12.png")
    before = gather(folder).recipe()
    shutil.copytree(folder, tmp_path / "copy")
    assert gather(tmp_path / "copy").recipe() == before
    Image.new("RGB", (8, 8), "red").save(folder / "7.png")
    assert gather(folder).recipe() != before
    gather(tmp_path / "copy").write(tmp_path / "out")
    with pytest.raises(UserError, match="holds a result of recipe"):
        gather(folder).write(tmp_path / "out")


def test_of_several_a_prompt_one_is_chosen(tmp_path):
    folder = draw(tmp_path / "drawn", *(f"{case}_{k}.png" for case in (7, 0, 12) for k in range(2)))
    with pytest.raises(UserError, match=r"several pictures of one prompt: 0_1\.png, 7_1\.png, 12_1\.png; choose"):
        gather(folder)
    for number in (0, 1):
        found = gather(folder, number).found["monet"]
        assert [path.name for path in found] == [f"{case}_{number}.png" for case in (7, 0, 12)]
    with pytest.raises(UserError, match=r"lacks 3 of the 3 pictures of .*: 7_2\.png, 0_2\.png, 12_2\.png; draw"):
        gather(folder, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["7.png"], r"lacks 2 of the 3 pictures of .*monet\.csv, named by case_number: 0\.png, 12\.png; draw them"),
        (
            ["7.png", "0.png", "12.png", "13.png", "grid.png"],
            r"holds 2 pictures that .*monet\.csv asks for: 13\.png, gri",
        ),
        (["7.png", "7_0.png", "0.png", "12.png"], r"7\.png and 7_0\.png are both of case_number 7; keep one"),
        (["7.png", "07.jpg", "0.png", "12.png"], r"07\.jpg and 7\.png are both of case_number 7; keep one"),
    ],
)
def test_missing_and_surplus_pictures_are_named(tmp_path, names, message):
    with pytest.raises(UserError, match=message) as error:
        gather(draw(tmp_path / "drawn", *names))
    assert "\n" not in str(error.value)


def test_only_the_first_names_are_told(tmp_path):
    folder = draw(tmp_path / "drawn", "7.png", "0.png", "12.png", *(f"{number}.png" for number in range(20, 29)))
    with pytest.raises(UserError, match=r"20\.png, 21\.png, 22\.png, 23\.png, 24\.png and 4 more; move"):
        gather(folder)


def test_mixed_sizes_damage_and_no_folder(tmp_path):
    folder = draw(tmp_path / "drawn", "7.png", "0.png")
    with pytest.raises(UserError, match=r"7\.png has 8 x 8 pixels, .*12\.png 6 x 9; pictures of one model must"):
        gather(draw(folder, "12.png", size=(9, 6)))
    (folder / "12.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"12\.png: not a readable picture .*; draw it again"):
        gather(folder)
    with pytest.raises(UserError, match="--pictures: none: no such folder"):
        flat.find(Path("none"), ROWS, None, Path("monet.csv"))
