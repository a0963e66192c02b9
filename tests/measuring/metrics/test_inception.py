"""The seam to clean-fid: random weights in the published files' formats, known by their own hash."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from lethe.files import io
from lethe.files.errors import NotThere, UserError
from lethe.measuring import inception, judges

CPU = torch.device("cpu")


class Scripted(torch.nn.Module):
    """What clean-fid takes of its TorchScript file: `layers`, from normalised pixels to 2048 numbers."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 7, stride=9), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(16), torch.nn.Flatten()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two pictures, not square and of two sizes."""
    folder, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, shape in enumerate([(40, 36, 3), (30, 64, 3)]):
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def clean_file(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Scripted().eval()
    path = tmp_path_factory.mktemp("clean") / "given.pt"
    torch.jit.script(made).save(path)
    return path


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Makes a file pass for the published one of a mode, at an address of its own; torch's cache is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for cached in (judges.features, judges.features_or_reason):
        cached.cache_clear()

    def publish(mode, path):
        changed = {"url": path.absolute().as_uri(), "sha256": io.sha256(path)}
        monkeypatch.setitem(inception.MODES, mode, dataclasses.replace(inception.MODES[mode], **changed))

    return publish


def of(folder):
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def test_clean_gives_what_clean_fid_gives_for_a_folder(published, clean_file, pictures, tmp_path):
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    published("clean", clean_file)
    found = judges.features("clean", CPU, str(clean_file))(of(pictures))
    (tmp_path / "inception-2015-12-05.pt").write_bytes(clean_file.read_bytes())
    theirs = InceptionV3W(str(tmp_path), download=False).eval()
    wanted = get_folder_features(
        str(pictures), theirs, num_workers=0, batch_size=2, device=CPU, mode="clean", verbose=False
    )
    assert found.shape == (2, 2048)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_legacy_pytorch_gives_what_clean_fid_gives_for_a_folder(published, pictures, tmp_path, monkeypatch):
    from cleanfid import inception_pytorch
    from cleanfid.features import build_feature_extractor
    from cleanfid.fid import get_folder_features
    from torchvision.models import Inception3

    with monkeypatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda url, **how: {})
        patch.setattr(Inception3, "load_state_dict", lambda self, state: None)
        state = inception_pytorch.fid_inception_v3().state_dict()
    path = tmp_path / "given.pth"
    torch.save(state, path)
    published("legacy_pytorch", path)
    loader = inception_pytorch.load_state_dict_from_url
    found = judges.features("legacy_pytorch", CPU, str(path))(of(pictures))
    assert inception_pytorch.load_state_dict_from_url is loader
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda url, **how: state)
    theirs = build_feature_extractor("legacy_pytorch", CPU, use_dataparallel=False)
    how = {"num_workers": 0, "batch_size": 2, "device": CPU, "mode": "legacy_pytorch", "verbose": False}
    np.testing.assert_allclose(found, get_folder_features(str(pictures), theirs, **how), atol=1e-5)
    assert found.shape == (2, 2048)


def test_weights_are_fetched_once_and_kept(published, clean_file, tmp_path):
    published("clean", clean_file)
    first = inception.weights("clean", None)
    assert first == tmp_path / "cache" / "hub" / "checkpoints" / "given.pt"
    assert [path.name for path in first.parent.iterdir()] == ["given.pt"]
    made = first.stat().st_mtime_ns
    assert inception.weights("clean", None) == first
    assert first.stat().st_mtime_ns == made


def test_without_a_network_the_reason_says_where_from_and_where_to(published, clean_file, tmp_path):
    published("clean", clean_file)
    url = (tmp_path / "gone" / "inception.pt").as_uri()
    inception.MODES["clean"] = dataclasses.replace(inception.MODES["clean"], url=url)  # undone with the fixture's
    reason = judges.features_or_reason("clean", CPU)
    for word in (
        url,
        str(tmp_path / "cache" / "hub" / "checkpoints" / "inception.pt"),
        "score.features_weights",
        "FID",
    ):
        assert word in reason
    assert "\n" not in reason
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").iterdir())
    with pytest.raises(NotThere):
        judges.features("clean", CPU)


def test_a_home_that_cannot_be_written_leaves_out_what_needs_the_weights(published, clean_file, tmp_path, monkeypatch):
    published("clean", clean_file)
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file" / "hub"))
    with pytest.raises(NotThere, match=r"cannot be fetched \(.*Not a directory.*name it in score\.features_weights"):
        inception.weights("clean", None)


def test_another_file_than_the_published_one_is_neither_kept_nor_opened(published, clean_file, tmp_path):
    published("clean", clean_file)
    other = tmp_path / "other.pt"
    other.write_bytes(clean_file.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"other\.pt: is not clean-fid's file for mode clean: its sha256 begins"):
        judges.features("clean", CPU, str(other))
    inception.MODES["clean"] = dataclasses.replace(inception.MODES["clean"], url=other.as_uri())
    with pytest.raises(NotThere, match="sends another file than the published one"):
        inception.weights("clean", None)
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").iterdir())


def test_a_file_of_another_form_is_told_in_one_line(published, tmp_path):
    for mode, name in (("clean", "net.pt"), ("legacy_pytorch", "net.pth")):
        path = tmp_path / name
        torch.save({"a": torch.zeros(2)}, path)
        published(mode, path)
        with pytest.raises(UserError, match="cannot be loaded") as error:
            judges.features(mode, CPU, str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "inception"}, r"score\.features: inception: is not clean or legacy_pytorch, nor"),
        (
            {"features_weights": "some.pt"},
            "goes with features clean or legacy_pytorch, not with .*content; set it null",
        ),
    ],
)
def test_wrong_features_are_refused_before_anything_loads(options, change, message):
    with pytest.raises(UserError, match=message):
        judges.check(options | change)


def test_protocol_tells_mode_file_and_resizer(options):
    clean, legacy = judges.features_protocol("clean"), judges.features_protocol("legacy_pytorch")
    assert clean["mode"] == "clean"
    assert clean["sha256"] == inception.MODES["clean"].sha256
    assert clean["resizer"] != legacy["resizer"]
    own = judges.features_protocol(options["features"])
    assert own["mode"] == "custom"
    assert own["network"] == options["features"]
    assert own["resizer"] == {"size": {"shortest_edge": 32}, "crop_pct": 1.0}
    assert judges.features_protocol(None) == {}
