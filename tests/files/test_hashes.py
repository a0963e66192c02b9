"""All bytes count, once: what is kept of a file is forgotten when the file changes, however that is hidden."""

import hashlib
import os
import time

import pytest

from lethe.files import hashes
from lethe.files.errors import UserError
from lethe.params.recipe import of_folder, of_pictures

OLD = time.time() - 3600


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two files that nobody has touched for an hour; the place of hashes is the test's own."""
    monkeypatch.setattr(hashes, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(hashes, "SETTLED", -1.0)  # all is kept at once: the hardest case
    made = tmp_path / "model"
    (made / "unet").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "unet" / "weights.safetensors").write_bytes(b"0123456789" * 1000)
    for path in (made / "config.json", made / "unet" / "weights.safetensors"):
        os.utime(path, (OLD, OLD))
    return made


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read from now on."""
    seen = []
    monkeypatch.setattr(hashes, "sha256", lambda path: seen.append(path.name) or _sha256(path))
    return seen


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hash_is_that_of_all_bytes_and_is_made_once(folder, read):
    found = hashes.of_files(folder)
    assert list(found) == ["config.json", "unet/weights.safetensors"]
    assert found["unet/weights.safetensors"] == (10_000, hashlib.sha256(b"0123456789" * 1000).hexdigest())
    assert sorted(read) == ["config.json", "weights.safetensors"]
    read.clear()
    assert hashes.of_files(folder) == found and read == []


def edit_in_place(path) -> None:
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"X")


def replace(path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"X" * path.stat().st_size)
    os.utime(other, (OLD, OLD))
    os.replace(other, path)


def swap(path) -> None:
    """Another file of the same size and time takes its place by a link."""
    other = path.parent.parent / "elsewhere"
    other.write_bytes(b"Y" * path.stat().st_size)
    os.utime(other, (OLD, OLD))
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [edit_in_place, replace, swap])
def test_a_change_is_seen_though_size_and_time_are_put_back(folder, change):
    before, path = of_folder(folder), folder / "unet" / "weights.safetensors"
    told = path.stat()
    change(path)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert path.stat().st_size == told.st_size and path.stat().st_mtime_ns == told.st_mtime_ns
    assert of_folder(folder) != before


def test_a_file_that_has_just_changed_is_not_kept(folder, monkeypatch, read):
    monkeypatch.setattr(hashes, "SETTLED", 3.0)
    (folder / "config.json").write_text("[]")
    hashes.of_files(folder)
    read.clear()
    hashes.of_files(folder)
    assert "config.json" in read


def test_the_middle_of_a_large_file_counts(folder):
    big = folder / "unet" / "weights.safetensors"
    with open(big, "r+b") as file:
        file.truncate(64 << 20)
    before = of_folder(folder)
    with open(big, "r+b") as file:
        file.seek(32 << 20)
        file.write(b"1")
    assert of_folder(folder) != before


def test_names_sort_as_paths_so_that_addresses_stay(folder):
    (folder / "unet-old").mkdir()
    (folder / "unet-old" / "a").write_text("a")
    assert list(hashes.files(folder)) == ["config.json", "unet/weights.safetensors", "unet-old/a"]


def test_what_lies_behind_a_link_counts(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "unet").rename(elsewhere)
    (folder / "unet").symlink_to(elsewhere)
    before = of_folder(folder)
    edit_in_place(elsewhere / "weights.safetensors")
    assert of_folder(folder) != before


@pytest.mark.parametrize("to", ["nowhere", "link", ".", ".."])
def test_a_broken_link_is_called_so(folder, to):
    (folder / "unet" / "link").symlink_to(to)
    with pytest.raises(UserError, match="link: broken link"):
        of_folder(folder)


def test_a_picture_that_changes_at_the_same_size_is_seen(folder):
    picture = folder / "unet" / "weights.safetensors"
    picture.rename(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a house"}\n')
    before, plain = of_pictures(folder, None), of_pictures(folder / "..", None, plain=True)
    edit_in_place(folder / "a.png")
    assert of_pictures(folder, None) != before
    assert of_pictures(folder / "..", None, plain=True) != plain


def test_what_is_kept_may_be_damaged_or_in_no_place(folder, monkeypatch, tmp_path, read):
    before = hashes.of_files(folder)
    (kept,) = hashes.KEPT.iterdir()
    for text in ("", "[]", '{"files": 3}', '{"files": {"config.json": 1}}'):
        kept.write_text(text)
        assert hashes.of_files(folder) == before
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(hashes, "KEPT", tmp_path / "file" / "kept")
    assert hashes.of_files(folder) == before


def test_what_is_kept_goes_with_its_folder(folder):
    hashes.of_files(folder)
    assert hashes.forsaken() == []
    folder.rename(folder.with_name("gone"))
    assert hashes.forsaken() == list(hashes.KEPT.iterdir())
