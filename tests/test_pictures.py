import json
import shutil

import pytest

from lethe import images, pictures
from lethe.errors import UserError


@pytest.fixture
def folder(tiny_pictures, tmp_path):
    return shutil.copytree(tiny_pictures, tmp_path / "pictures")


def rewrite(folder, line, text):
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines))


def test_rows_in_the_order_of_the_list(folder):
    found = pictures.read(folder)
    assert len(found) == 12
    assert found.files[1] == "01.png"
    assert found.captions[1] == "a house by monet"
    assert found.decode(1, found.read(1)).size == (40, 36)


def test_grey_pictures_become_rgb(folder):
    from PIL import Image

    Image.new("LA", (9, 8)).save(folder / "03.png")
    found = pictures.read(folder)
    assert found.decode(3, found.read(3)).mode == "RGB"


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (3, "{broken", ["line 3", "not JSON"]),
        (4, '{"file_name": "03.png"}', ["line 4", "'text'"]),
        (5, '{"text": "a boat"}', ["line 5", "'file_name'"]),
        (6, '["05.png", "a boat"]', ["line 6", "not an object"]),
        (7, '{"file_name": "nowhere.png", "text": "a boat"}', ["line 7", "nowhere.png", "no such file"]),
    ],
)
def test_a_wrong_row_is_named(folder, line, text, words):
    rewrite(folder, line, text)
    with pytest.raises(UserError) as caught:
        pictures.read(folder)
    assert all(word in str(caught.value) for word in ["metadata.jsonl", *words])


def test_prompt_is_the_caption_of_rows_without_one(folder):
    rewrite(folder, 4, json.dumps({"file_name": "03.png"}))
    found = pictures.read(folder, "a painting")
    assert found.captions[3] == "a painting"
    assert found.captions[1] == "a house by monet"


def test_folder_without_list_and_empty_list(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        pictures.read(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(UserError, match="lists no pictures"):
        pictures.read(tmp_path)


def test_samples_folder_brings_its_prompts(tmp_path):
    samples = save_samples(tmp_path / "samples")
    found = pictures.read(samples)
    assert found.captions == ["a boat by monet", "a boat by monet"]
    assert found.decode(1, found.read(1)).getpixel((0, 0)) == (1, 2, 3)


def save_samples(folder):
    """As stage sample leaves them: two pictures."""
    import hashlib

    import numpy as np

    folder.mkdir()
    files = {f"monet/{case}.png": images.png(np.full((32, 32, 3), [case, 2, 3], np.uint8)) for case in range(2)}
    images.write_tar(folder / "images.tar", files.items())
    entries = [
        images.Entry("monet", case, "a boat by monet", case, name, hashlib.sha256(content).hexdigest())
        for case, (name, content) in enumerate(files.items())
    ]
    images.write_manifest(folder / "manifest.csv", entries)
    (folder / "meta.json").write_text('{"recipe": "0123456789", "stage": "sample"}')
    return folder
