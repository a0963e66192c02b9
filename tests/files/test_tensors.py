import errno

import pytest
import torch
from safetensors import SafetensorError

from lethe.files import tensors
from lethe.files.errors import UserError


def test_what_is_saved_is_loaded_with_its_texts(tmp_path):
    value = torch.arange(6.0).view(2, 3).T  # not contiguous
    tensors.save(tmp_path / "new" / "a.safetensors", {"value": value}, {"note": "é"})
    assert torch.equal(tensors.load(tmp_path / "new" / "a.safetensors")["value"], value)
    assert tensors.metadata(tmp_path / "new" / "a.safetensors") == {"note": "é"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_a_file_filled_piece_by_piece_is_a_safetensors_file(tmp_path):
    arrays = tensors.allocate(tmp_path / "a.safetensors", {"mean": (3, 2), "std": (3, 1, 5)})
    for row in range(3):
        arrays["mean"][row] = row
        arrays["std"][row] = -row
    for array in arrays.values():
        array.flush()
    found = tensors.load(tmp_path / "a.safetensors")
    assert torch.equal(found["mean"], torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    assert torch.equal(found["std"][:, 0, 4], torch.tensor([0.0, -1.0, -2.0]))


def test_a_full_disk_is_an_os_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    tensors.save(path, {"value": torch.ones(2)})

    def full(found, part, metadata):
        part.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match=r"a\.safetensors") as caught:
        tensors.save(path, {"value": torch.zeros(2)})
    assert caught.value.errno == errno.ENOSPC
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    assert torch.equal(tensors.load(path)["value"], torch.ones(2))


def test_missing_and_cut_files_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"a\.safetensors: no such file"):
        tensors.load(path)
    tensors.save(path, {"value": torch.ones(20)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"a\.safetensors: not a whole"):
        tensors.load(path)
