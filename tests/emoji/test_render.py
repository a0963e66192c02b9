"""How the archive is made again, and what is said when it comes out otherwise."""

import base64
import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lethe.emoji import render, sources
from lethe.emoji.world import ARCHIVE, SIDE, Name
from lethe.files.errors import UserError
from lethe.files.images import read_tar, write_tar

NAMES = ("red apple", "hot dog")


def tarball(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def webp(colour):
    buffer = io.BytesIO()
    Image.new("RGBA", (256, 256), colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two names in the one style that needs no SVG renderer."""
    entries = [
        {"label": name, "hexcode": code, "group": 4, "tags": []}
        for name, code in zip(NAMES, ("1F34E", "1F32D"), strict=True)
    ]
    glossy = next(style for style in sources.STYLES if style.word == "glossy")
    folder = tmp_path / "packages"
    folder.mkdir()
    own = tarball(folder / sources.LABELS.file, {"en/data.json": json.dumps(entries).encode()})
    files = {"assets/1f34e.webp": webp((250, 10, 10, 255)), "assets/1f32d.webp": webp((10, 250, 10, 255))}
    drawn = tarball(folder / glossy.package.file, files)
    monkeypatch.setattr(sources, "LABELS", replace(sources.LABELS, integrity=own))
    style = replace(glossy, package=replace(glossy.package, integrity=drawn))
    monkeypatch.setattr(sources, "STYLES", (style,))
    monkeypatch.setattr(render, "names", lambda: [Name(name, "food", ()) for name in NAMES])
    return folder


def test_equal_packages_make_equal_bytes(packages, tmp_path):
    for file in ("one.tar", "two.tar"):
        write_tar(tmp_path / file, render.archive(packages))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    found = dict(read_tar(tmp_path / "one.tar"))
    assert list(found) == ["metadata.jsonl", "glossy/red-apple.png", "glossy/hot-dog.png"]
    pixels = np.asarray(Image.open(io.BytesIO(found["glossy/red-apple.png"])))
    assert pixels.shape == (SIDE, SIDE, 4)
    assert pixels[SIDE // 2, SIDE // 2].tolist() == [250, 10, 10, 255] and pixels[0, 0].tolist() == [0, 0, 0, 0]


def test_a_committed_picture_gives_the_same_bytes_when_it_is_written_again():
    name, content = next(item for item in read_tar(ARCHIVE) if item[0].endswith(".png"))
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    again = np.asarray(Image.open(io.BytesIO(render.png(pixels))))
    assert np.array_equal(pixels, again), name
    assert render.png(pixels) == render.png(again)


def test_the_comparison_names_pictures_and_packages(packages, tmp_path, capsys):
    path = tmp_path / "old.tar"
    write_tar(path, render.archive(packages))
    render.check(path, packages)
    assert "the same, 3 members" in capsys.readouterr().out
    style = sources.STYLES[0]
    files = {"assets/1f34e.webp": webp((0, 0, 250, 255)), "assets/1f32d.webp": webp((10, 250, 10, 255))}
    tarball(packages / style.package.file, files)
    with pytest.raises(
        UserError, match=r"1 members differ: glossy/red-apple.png; not as pinned: @lobehub/fluent-emoji"
    ):
        render.check(path, packages)
    with pytest.raises(UserError, match=r"not @lobehub/fluent-emoji-3d 1\.1\.0 as pinned; delete it"):
        render.archive(packages)


def test_a_name_that_a_style_lacks(packages, monkeypatch):
    monkeypatch.setattr(render, "names", lambda: [Name("yarn", "objects", ())])
    with pytest.raises(UserError, match=r"has no 'yarn'; take it off names\.csv"):
        render.archive(packages)


def test_a_package_that_cannot_be_fetched(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(sources.urllib.request, "urlopen", no_network)
    with pytest.raises(UserError, match=r"cannot be fetched \(no route\); put emojibase-data-17.0.0.tgz into"):
        sources.fetch(sources.LABELS, tmp_path)


ICONS = {
    "width": 32,
    "height": 32,
    "icons": {"apple": {"body": "<path/>"}, "wide": {"body": "<g/>", "height": 16}},
    "aliases": {"fruit": {"parent": "apple"}, "turned": {"parent": "apple", "rotate": 1}},
}


@pytest.mark.parametrize(
    ("name", "box"),
    [("apple", "0 0 32 32"), ("fruit", "0 0 32 32"), ("wide", "0 -8 32 32"), ("turned", None), ("x", None)],
)
def test_an_icon_as_a_square_document(name, box):
    document = sources.svg(ICONS, name)
    assert document is None if box is None else f'viewBox="{box}"' in document


def test_names_as_icon_sets_spell_them():
    assert sources.slug("rolled-up newspaper") == "rolled-up-newspaper"
    assert sources.slug("woman’s boot") == "womans-boot"
