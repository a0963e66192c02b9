"""Names of networks: which are refused before anything loads, what is given to open_clip, and what is recorded."""

import json
import re

import pytest
import torch

from lethe.files.errors import UserError
from lethe.files.io import sha256
from lethe.measuring import clip_names, judges, weights
from tests import tiny_judges

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_judges.judges(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def given(monkeypatch):
    """What open_clip is asked for; nothing is fetched."""
    import open_clip

    asked = []

    def create(name, pretrained, **how):
        asked.append((name, pretrained, how))
        return torch.nn.Identity(), None

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: None)
    judges.clip.cache_clear()
    monkeypatch.setattr(open_clip, "download_pretrained", lambda known: str(known))
    yield asked
    for cached in (judges.clip, judges._clip, clip_names._fetched):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("name", "architecture", "pretrained"),
    [
        ("ViT-B-32-quickgelu@openai", "ViT-B-32-quickgelu", "openai"),
        ("ViT-L-14-quickgelu@openai", "ViT-L-14-quickgelu", "openai"),
        ("ViT-B-32@laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-g-14@laion2b_s34b_b88k", "ViT-g-14", "laion2b_s34b_b88k"),
        ("ViT-B-32-quickgelu@laion400m_e32", "ViT-B-32-quickgelu", "laion400m_e32"),
    ],
)
def test_open_clip_is_given_the_name_with_the_activation_of_its_weights(given, name, architecture, pretrained):
    import open_clip

    judges.clip(name, CPU)
    assert [own[:2] for own in given] == [(architecture, pretrained)]
    assert given[0][2] == {"device": CPU, "precision": "fp32"}
    wanted = bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu"))
    assert bool(open_clip.get_model_config(architecture).get("quick_gelu")) == wanted


@pytest.mark.parametrize("name", ["ViT-B-32@openai", "ViT-L-14@openai", "RN50@openai"])
def test_openais_weights_under_another_activation_are_refused_at_once(given, name):
    architecture = name.partition("@")[0]
    with pytest.raises(
        UserError, match=rf"QuickGELU, that architecture has GELU; give {architecture}-quickgelu@openai"
    ):
        clip_names.parsed(name)
    assert given == []


@pytest.mark.parametrize("name", ["ViT-L-14@dfn2b", "ViT-B-32@metaclip_400m"])
def test_other_such_weights_are_refused_when_open_clip_is_there_to_tell(given, name):
    with pytest.raises(UserError, match=f"give {name.replace('@', '-quickgelu@')}"):
        judges.clip(name, CPU)
    assert given == []


def test_no_weights_of_open_clip_are_fit_for_another_activation_only():
    """Each name that is refused has the one that is proposed."""
    import open_clip

    refused = []
    for name, pretrained in open_clip.list_pretrained():
        try:
            clip_names.check_activation(name, pretrained)
        except UserError as error:
            proposed = re.search(r"give (\S+)@(\S+)$", str(error))
            assert (proposed[1], proposed[2]) in open_clip.list_pretrained()
            refused.append((name, pretrained))
    assert ("ViT-B-32", "openai") in refused
    assert len(refused) > 20


def test_a_label_out_of_a_thousand_is_answered_with_its_neighbours():
    known = [f"class {number}" for number in range(1000)] + ["golf ball", "gas pump"]
    with pytest.raises(UserError) as error:
        judges.check_labels("models/r50", known, ["golfball"], "class")
    assert "column class: golfball not among the labels of models/r50 (1002 of them, golf ball" in str(error.value)
    assert len(str(error.value)) < 250


def test_the_weights_of_each_network_that_a_protocol_names_are_recorded(folder):
    section = tiny_judges.section(folder)
    own = {"model": section["clip"], "judges": {"content": section["judges"]["content"]}, "kernel": "Gaussian"}
    found = weights.behind(own, section)
    clip = folder / "clip" / "open_clip_model.safetensors"
    content = folder / "content" / "model.safetensors"
    assert found == {
        section["clip"]: {"weights": {clip.name: sha256(clip)}},
        section["judges"]["content"]: {"weights": {content.name: sha256(content)}},
    }
    assert weights.behind({"mode": "clean", "steps": 3}, section | {"features": "clean"}) == {}
    own = {"judges": {"unsafe": "nudenet"}}
    assert weights.behind(own, section | {"judges": {"unsafe": "nudenet"}}) == {}


def test_weights_of_a_hub_are_those_in_the_cache(folder, tmp_path, monkeypatch):
    import huggingface_hub
    import open_clip

    snapshot = folder / "content"
    asked = []

    def cached(place, file, revision):
        asked.append((place, file, revision))
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    commit = "0" * 40
    found = weights.told(f"microsoft/resnet-50@{commit}")
    assert found["weights"] == {"model.safetensors": sha256(snapshot / "model.safetensors")}
    assert asked == [("microsoft/resnet-50", "config.json", commit)]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"microsoft/resnet-50@0+: no \*\.safetensors there"):
        weights.told(f"microsoft/resnet-50@{commit}")

    (tmp_path / "w.safetensors").write_bytes(b"weights")
    clip_names._fetched.cache_clear()
    monkeypatch.setattr(open_clip, "download_pretrained", lambda own: str(tmp_path / "w.safetensors") if own else "")
    found = weights.told("ViT-B-32-quickgelu@openai")
    assert found["weights"] == {"w.safetensors": sha256(tmp_path / "w.safetensors")}

    def offline(own):
        raise OSError("no network\nat all")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    assert weights.told("ViT-B-32-quickgelu@openai") == found  # asked for once a process
    clip_names._fetched.cache_clear()
    with pytest.raises(UserError, match="ViT-B-32-quickgelu@openai: its weights cannot be fetched: no network at all"):
        weights.told("ViT-B-32-quickgelu@openai")


def test_a_file_that_changes_is_hashed_again(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    before = weights.told(str(tmp_path))["weights"]
    assert weights.told(str(tmp_path))["weights"] == before
    path.write_bytes(b"other")
    assert weights.told(str(tmp_path))["weights"] == {path.name: sha256(path)} != before


def test_a_converted_folder_must_hold_what_was_converted(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    made = {"kind": "csd", "file": "pytorch_model.bin", "sha256": "ab", "weights": {"model.safetensors": "0" * 64}}
    (tmp_path / weights.CONVERTED).write_text(json.dumps(made))
    with pytest.raises(
        UserError, match=r"model\.safetensors: its sha256 begins [0-9a-f]{12}, in converted\.json 0{12}"
    ):
        weights.told(str(tmp_path))
