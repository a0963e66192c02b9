import hashlib

import numpy as np
import pytest

from lethe.files import images
from lethe.files.errors import UserError


@pytest.fixture
def samples(tmp_path):
    """A samples folder of three noise pictures, and their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    contents = {f"monet/{number}.png": images.png(picture) for number, picture in enumerate(pixels)}
    images.write_tar(tmp_path / images.TAR, contents.items())
    images.write_manifest(
        tmp_path / images.MANIFEST,
        [
            images.Entry("monet", number, 'a "boat", by monet', 5, file, hashlib.sha256(content).hexdigest())
            for number, (file, content) in enumerate(contents.items())
        ],
    )
    return tmp_path, pixels


def test_a_picture_is_read_by_name_without_loss(samples):
    folder, pixels = samples
    with images.Images(folder) as opened:
        assert [entry.prompt for entry in opened.entries] == ['a "boat", by monet'] * 3
        for entry in reversed(opened.entries):
            assert np.array_equal(np.asarray(opened.picture(entry)), pixels[entry.case_number])


def test_equal_members_make_an_equal_tar(samples, tmp_path):
    folder, pixels = samples
    again = tmp_path / "again.tar"
    images.write_tar(again, [(f"monet/{number}.png", images.png(picture)) for number, picture in enumerate(pixels)])
    assert again.read_bytes() == (folder / images.TAR).read_bytes()
    assert dict(images.read_tar(again)).keys() == {"monet/0.png", "monet/1.png", "monet/2.png"}


def test_a_changed_picture_is_noticed(samples):
    folder, pixels = samples
    members = dict(images.read_tar(folder / images.TAR))
    images.write_tar(folder / images.TAR, (members | {"monet/1.png": images.png(255 - pixels[1])}).items())
    with images.Images(folder) as opened:
        assert opened.read(opened.entries[0]) == members["monet/0.png"]
        with pytest.raises(UserError, match=r"monet/1\.png differs from its sha256"):
            opened.read(opened.entries[1])
    del members["monet/2.png"]
    images.write_tar(folder / images.TAR, members.items())
    with images.Images(folder) as opened, pytest.raises(UserError, match=r"monet/2\.png is missing"):
        opened.read(opened.entries[2])


def test_a_cut_tar_or_manifest_is_told_in_one_line(samples):
    folder, _ = samples
    tar = folder / images.TAR
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(UserError, match="make the samples again"), images.Images(folder) as opened:
        opened.read(opened.entries[0])
    (folder / images.MANIFEST).write_text("set,file\nmonet,a\n")
    with pytest.raises(UserError, match="not a manifest"):
        images.read_manifest(folder)
    with pytest.raises(UserError, match=r"no manifest\.csv"):
        images.read_manifest(folder / "none")
