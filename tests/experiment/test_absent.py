"""What is named and not there: told in one line with where to get it, left out, and made good when it comes."""

import re

import pytest

from lethe.experiment import absent
from lethe.files.errors import UserError
from lethe.measuring import judges, perceptual
from lethe.measuring.detectors import nudenet
from lethe.params import registry
from lethe.params.recipe import of_judges
from tests import tiny_judges

NULLS = {"clip": None, "descriptor": None, "features": None, "features_weights": None, "lpips": None, "unsafe": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_judges.judges(tmp_path_factory.mktemp("absent"))


@pytest.fixture
def section(folder, tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    return tiny_judges.section(folder)


def changed(section: dict, change: dict) -> dict:
    """The section with values at keys such as judges.style."""
    roles = {key.removeprefix("judges."): path for key, path in change.items() if key.startswith("judges.")}
    own = section | {key: value for key, value in change.items() if not key.startswith("judges.")}
    return own | {"judges": section["judges"] | roles}


def test_nothing_is_lacking_where_all_is_there_or_null(section):
    assert absent.split(section) == (section, {})
    assert absent.identities(section, {}) == of_judges(section)
    none = section | NULLS | {"judges": dict.fromkeys(section["judges"])}
    assert absent.split(none) == (none, {})


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (
            {"clip": "local-dir:models/clop"},
            "clip",
            ["models/clop: no such folder", "open_clip_config.json", "cp_near"],
        ),
        (
            {"descriptor": "models/csd"},
            "descriptor",
            ["models/csd: no such folder", "lethe.measuring.backbones csd", "csd_raw"],
        ),
        ({"features": "models/own"}, "features", ["models/own: no such folder", "legacy_pytorch", "fid, kid"]),
        (
            {"features": "clean", "features_weights": "inception.pt"},
            "features",
            ["features_weights inception.pt: no such file", "https://nvlabs-fi-cdn.nvidia.com", "fid, kid"],
        ),
        ({"lpips": "models/lpips"}, "lpips", ["alexnet-owt-7be5be79.pth and https", "alex.pth", "lpips_base"]),
        (
            {"judges.content": "models/r50"},
            "judges.content",
            ["no such folder", "lethe.measuring.backbones resnet50", "cra"],
        ),
        (
            {"judges.style": "owner/typo"},
            "judges.style",
            ["owner/typo: no such folder", "lethe.measuring.backbones vit", "ua,"],
        ),
        ({"judges.unsafe": "models/q16"}, "judges.unsafe", ["models/q16: no such folder", "make nudenet", "shown"]),
        (
            {"judges.unsafe": "nudenet", "unsafe": {"labels": "exposed9", "threshold": 0.5}},
            "judges.unsafe",
            ["no .venv-nudenet", "make nudenet", "removal_base"],
        ),
    ],
)
def test_what_is_absent_is_null_and_told(section, tmp_path, monkeypatch, change, key, words):
    monkeypatch.setattr(nudenet, "FOLDER", tmp_path / ".venv-nudenet")
    named = changed(section, change)
    judges.check(named)
    usable, lacking = absent.split(named)
    assert usable == changed(named, {key: None} | ({"features_weights": None} if key == "features" else {}))
    assert list(lacking) == [key] and lacking[key].startswith(f"score.{key}: ")
    line = " ".join(absent.warnings(lacking))
    assert "\n" not in line and [word for word in words if word not in line] == []
    assert absent.identities(named, lacking) == of_judges(named) | {"lacking": key}


def test_a_folder_without_its_weights_is_as_good_as_none(section, tmp_path):
    own = tiny_judges.judges(tmp_path / "judges")
    for name in ("clip", "style"):
        for file in (own / name).glob("*.safetensors"):
            file.unlink()
    (own / "content" / "preprocessor_config.json").unlink()
    usable, lacking = absent.split(tiny_judges.section(own))
    assert lacking.keys() == {"clip", "features", "judges.style", "judges.content"}
    assert f"{own / 'style'}: no *.safetensors there" in lacking["judges.style"]
    assert f"{own / 'content'}: no preprocessor_config.json there" in lacking["features"]
    assert usable["descriptor"] == str(own / "descriptor")


def test_what_is_there_and_is_something_else_is_refused(section, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"score\.descriptor: weights\.bin: is a file; .*\.measuring\.backbones csd"):
        absent.split(changed(section, {"descriptor": "weights.bin"}))
    for net in perceptual.NETS.values():
        for file in net.hashes():
            (tmp_path / file).touch()
    with pytest.raises(UserError, match="holds the files of alex and vgg"):
        absent.split(changed(section, {"lpips": str(tmp_path)}))


def test_hub_ids_and_names_of_open_clip_are_not_looked_for(section):
    named = changed(section, {"judges.style": f"owner/name@{'0' * 40}", "clip": "ViT-B-32@laion2b_s34b_b79k"})
    assert absent.split(named) == (named, {})


def test_metrics_that_go_are_called_by_their_names():
    known = {name for family in registry.literals("metrics", "METRICS").values() for name in family}
    told = {name for one in absent.NETWORKS.values() for name in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)*\b", one.metrics)}
    plain = {"and", "of", "styles", "objects", "concepts", "kind", "unsafe"}
    assert told - plain <= known and {"fid", "csd_raw", "lpips_base_target"} <= told
