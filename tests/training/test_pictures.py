import hashlib
import json
import shutil

import pytest
from PIL import Image

from lethe.files import images
from lethe.files.errors import UserError
from lethe.params.recipe import of_pictures
from lethe.training import pictures


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
    assert found.decode(1, found.read(1))[0].size == (40, 36)


def test_grey_pictures_become_rgb(folder):
    from PIL import Image

    Image.new("LA", (9, 8), (3, 255)).save(folder / "03.png")
    found = pictures.read(folder)
    picture, mode = found.decode(3, found.read(3))
    assert (picture.mode, mode) == ("RGB", "LA")


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (3, "{broken", ["line 3", "not JSON"]),
        (4, '{"file_name": "03.png"}', ["line 4", "'text'"]),
        (5, '{"text": "a boat"}', ["line 5", "'file_name'"]),
        (6, '["05.png", "a boat"]', ["line 6", "not an object"]),
        (6, '{"file_name": "05.png", "text": "a boat", "anchor": 3}', ["line 6", "anchor 3", "no text"]),
        (7, '{"file_name": "nowhere.png", "text": "a boat"}', ["line 7", "nowhere.png", "no such file"]),
    ],
)
def test_a_wrong_row_is_named(folder, line, text, words):
    rewrite(folder, line, text)
    with pytest.raises(UserError) as caught:
        pictures.read(folder)
    assert all(word in str(caught.value) for word in ["metadata.jsonl", *words])


def test_a_caption_may_hold_other_line_ends(folder):
    rewrite(folder, 2, json.dumps({"file_name": "01.png", "text": "a house\u2028by monet"}, ensure_ascii=False))
    assert pictures.read(folder).captions[1] == "a house\u2028by monet"


def test_a_list_that_is_not_utf8_is_named(folder):
    (folder / "metadata.jsonl").write_bytes('{"file_name": "01.png", "text": "café"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata\.jsonl: not UTF-8"):
        pictures.read(folder)


def test_a_file_that_cannot_be_read_is_named(folder):
    found = pictures.read(folder)
    (folder / "01.png").unlink()
    with pytest.raises(UserError, match=r"01\.png: cannot be read"):
        found.read(1)


def test_prompt_is_the_caption_of_rows_without_one(folder):
    rewrite(folder, 4, json.dumps({"file_name": "03.png"}))
    found = pictures.read(folder, "a painting")
    assert found.captions[3] == "a painting"
    assert found.captions[1] == "a house by monet"


def test_a_rows_own_anchor_goes_before_the_prompts(folder):
    rewrite(folder, 3, json.dumps({"file_name": "02.png", "text": "a boat by monet", "anchor": "a ship"}))
    found = pictures.read(folder)
    assert found.without("a painting by monet", "a painting")[1:3] == ["a house", "a ship"]


def test_folder_without_list_and_empty_list(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        pictures.read(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(UserError, match="lists no pictures"):
        pictures.read(tmp_path)


def test_a_plain_folder_where_it_is_good_enough(tmp_path):
    (tmp_path / "b" / ".thumbnails").mkdir(parents=True)
    for name in ("z.PNG", "b/a.png", "b/.thumbnails/a.png", ".c.png"):
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"no metadata\.jsonl"):
        pictures.read(tmp_path)
    with pytest.raises(UserError, match=r"no metadata\.jsonl"):
        of_pictures(tmp_path, None)
    found = pictures.read(tmp_path, "a caption", plain=True)
    assert found.files == ["b/a.png", "z.PNG"] and found.captions == ["a caption"] * 2
    assert found.decode(0, found.read(0))[0].getpixel((0, 0)) == (len("b/a.png"), 0, 0)
    assert found.where(1) == f"{tmp_path} picture 2: z.PNG"
    before = of_pictures(tmp_path, None, plain=True)
    (tmp_path / "notes.txt").write_text("still none")
    assert of_pictures(tmp_path, None, plain=True) == before
    (tmp_path / "z.PNG").write_bytes((tmp_path / "z.PNG").read_bytes() + b"x")
    assert of_pictures(tmp_path, None, plain=True) != before
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "z.PNG", "text": "its own"}\n')
    assert pictures.read(tmp_path, "", plain=True).captions == ["its own"]  # a list goes before
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no metadata\.jsonl"):
        pictures.read(tmp_path / "none", "", plain=True)
    with pytest.raises(UserError, match="no such picture folder"):
        pictures.read(tmp_path / "nowhere", "", plain=True)


def test_samples_folder_brings_its_prompts(tmp_path):
    samples = save_samples(tmp_path / "samples")
    found = pictures.read(samples)
    assert found.captions == ["a boat by monet", "a boat by monet"]
    assert found.decode(1, found.read(1))[0].getpixel((0, 0)) == (1, 2, 3)


def save_samples(folder):
    """As stage sample leaves them: two pictures."""

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


@pytest.fixture
def coco(tiny_pictures, tmp_path):
    """Two pictures in COCO's layout, three captions, ids in no order."""
    folder = tmp_path / "coco/val2017"
    folder.mkdir(parents=True)
    for name in ("000000000139.jpg", "000000000009.jpg"):
        shutil.copy(tiny_pictures / "01.png", folder / name)
    notes = [(7, 139, "a second caption"), (3, 9, "a house \n"), (5, 139, "a first caption")]
    content = {
        "info": {},
        "images": [{"id": int(path.stem), "file_name": path.name, "width": 40} for path in sorted(folder.iterdir())],
        "annotations": [dict(zip(("id", "image_id", "caption"), note, strict=True)) for note in notes],
    }
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/annotations/captions_val2017.json").write_text(json.dumps(content))
    return folder


def recaption(folder, change):
    path = folder.parent / "annotations/captions_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_coco_folder_has_each_picture_with_its_first_caption(coco):
    found = pictures.read(coco)
    assert found.files == ["000000000009.jpg", "000000000139.jpg"]
    assert found.captions == ["a house", "a first caption"]
    assert found.decode(1, found.read(1))[0].size == (40, 36)
    assert found.where(1).endswith("captions_val2017.json image 139: 000000000139.jpg")


def test_captions_are_part_of_a_coco_folders_identity(coco):
    before = of_pictures(coco, None)
    assert before == of_pictures(coco, None)
    recaption(coco, lambda content: content["annotations"][0].update(caption="another"))
    assert of_pictures(coco, None) != before


def test_contents_are_the_bytes_of_the_listed_pictures_in_their_order(coco, tmp_path):
    """What lies in the folder unlisted does not count, a list that changes does, wherever it stands."""
    before = pictures.contents(coco)
    each = [hashlib.sha256((coco / name).read_bytes()).digest() for name in pictures.read(coco).files]
    assert before == hashlib.sha256(b"".join(each)).hexdigest()
    (coco / "unlisted.jpg").write_bytes(b"no picture")
    recaption(coco, lambda content: content["annotations"][0].update(caption="another"))
    assert pictures.contents(coco) == before
    recaption(coco, lambda content: content["images"].pop(0))
    recaption(coco, lambda content: content["annotations"].__delitem__(slice(None)))
    assert pictures.contents(coco) == hashlib.sha256(each[1]).hexdigest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("annotations"), "not COCO's captions"),
        (lambda c: c["annotations"].pop(1), "image 9: 000000000009.jpg has no caption"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "image 9: gone.jpg: no such file"),
        (lambda c: c["images"].clear(), "lists no pictures"),
        (lambda c: c["images"][0].update(file_name=None), "not COCO's captions"),
        (lambda c: c["images"][0].update(id="nine"), "not COCO's captions"),
    ],
)
def test_wrong_coco_captions_are_named(coco, change, words):
    recaption(coco, change)
    with pytest.raises(UserError, match=words):
        pictures.read(coco)


ROWS = ("file_name,text\n00.png,a boat\n", "01.png,\n", '02.png,"a house, by monet"\n')


def test_a_list_may_be_a_table_with_a_mark_in_front(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("\ufeff" + "".join(ROWS), encoding="utf-8")
    found = pictures.read(folder, prompt="a picture")
    assert found.files == ["00.png", "01.png", "02.png"]
    assert found.captions == ["a boat", "a picture", "a house, by monet"]
    assert found.where(2).endswith("metadata.csv line 4: 02.png")
    before = of_pictures(folder, None)
    (folder / "metadata.csv").write_text("".join(ROWS))
    assert of_pictures(folder, None) != before
    (folder / "metadata.csv").write_text("file_name,text\n00.png,a boat, a sun\n")
    with pytest.raises(UserError, match=r"line 2: more cells than columns"):
        pictures.read(folder)
    (folder / "metadata.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"holds metadata\.jsonl and metadata\.csv; keep one"):
        pictures.read(folder)


def test_a_mark_in_front_of_a_list_is_no_part_of_it(folder):
    path = folder / "metadata.jsonl"
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert len(pictures.read(folder)) == 12


def test_a_list_one_folder_further_down_is_named(folder):
    with pytest.raises(UserError, match=rf"{folder.name}/ has one: give {folder}$"):
        pictures.read(folder.parent)


@pytest.mark.parametrize(
    ("line", "text", "told"),
    [
        (4, '{"file_name": "../03.png", "text": "a boat"}', r"line 4: \.\./03\.png leads out of"),
        (4, '{"file_name": "/03.png", "text": "a boat"}', r"line 4: /03\.png leads out of"),
        (4, '{"file_name": "03.png", "text": null}', r"line 4: no text in column 'text'"),
        (3, '{"file_name": "01.png", "text": "a house by monet"}', r"line 3: 01\.png stands in line 2 too"),
    ],
)
def test_a_row_that_cannot_be_meant(folder, line, text, told):
    rewrite(folder, line, text)
    with pytest.raises(UserError, match=told):
        pictures.read(folder)


def test_a_picture_may_have_several_captions(folder):
    rewrite(folder, 3, '{"file_name": "01.png", "text": "another caption"}')
    found = pictures.read(folder)
    assert found.files[1:3] == ["01.png", "01.png"] and found.captions[1] != found.captions[2]


def test_a_coco_caption_that_is_none_names_its_row(coco):
    recaption(coco, lambda content: content["annotations"][0].update(caption=None))
    with pytest.raises(UserError, match=r"annotation \d+ \(image \d+\): caption None is no text"):
        pictures.read(coco)


def test_a_part_of_cocos_pictures_is_counted_where_that_is_said(coco):
    (coco / "000000000009.jpg").unlink()
    with pytest.raises(UserError, match=r"image 9: 000000000009\.jpg: no such file .* --subset of encode and score"):
        pictures.read(coco)
    found = pictures.read(coco, subset=True)
    assert (found.files, found.captions, found.missing) == (["000000000139.jpg"], ["a first caption"], 1)
    assert found.missing_line().endswith("captions_val2017.json: 1 of 2 images have no picture, left out")
    assert pictures.contents(coco, subset=True) != ""
    (coco / "000000000139.jpg").unlink()
    with pytest.raises(UserError, match="none of its 2 pictures is in"):
        pictures.read(coco, subset=True)


def test_a_part_of_an_imagefolder_is_counted_too(folder):
    before = of_pictures(folder, None)
    (folder / "03.png").unlink()
    (folder / "05.png").unlink()
    with pytest.raises(UserError, match=r"line 4: 03\.png: no such file"):
        pictures.read(folder)
    found = pictures.read(folder, subset=True)
    assert (len(found), found.missing, found.lines[3]) == (10, 2, 5)
    assert of_pictures(folder, None) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"][0].update(file_name="../val2017/000000000009.jpg"), "leads out of"),
        (lambda c: c["images"][0].update(file_name="/tmp/x.jpg"), "leads out of"),
        (lambda c: c["images"][1].update(file_name="000000000009.jpg"), "image 139: .* stands there twice"),
        (lambda c: c["images"][1].update(id=9), "image 9: .* stands there twice"),
        (lambda c: c["images"].append(c["images"][0]), "image 9: .* stands there twice"),
    ],
)
@pytest.mark.parametrize("subset", [False, True])
def test_coco_captions_that_would_be_read_as_something_else_are_refused(coco, change, words, subset):
    recaption(coco, change)
    with pytest.raises(UserError, match=words):
        pictures.read(coco, subset=subset)


def test_one_file_under_two_spellings_is_one(folder):
    rewrite(folder, 3, json.dumps({"file_name": "./01.png", "text": "a house by monet"}))
    with pytest.raises(UserError, match=r"line 3: \./01\.png stands in line 2 too"):
        pictures.read(folder)
