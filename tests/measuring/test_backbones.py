"""Published formats, tiny and with random weights, against forward passes that do not go through the folder."""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

from lethe.files import io
from lethe.files.errors import UserError
from lethe.measuring import backbones, judges, weights
from lethe.models import foreign
from lethe.params import recipe

CPU = torch.device("cpu")
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def batch() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    shapes = [(48, 96, 3), (300, 60, 3), (40, 40, 3)]  # even margins: of odd ones the crop's sides differ by a pixel
    return [Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["backbones", *map(str, arguments)])
    backbones.main()


def published_transform(resize, crop, how, moments):
    """Preprocessing as the authors write it, with torchvision on Pillow pictures."""
    steps = [transforms.Resize(resize, how), transforms.CenterCrop(crop)] if crop else [transforms.Resize(resize, how)]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*moments)])


# --- CSD


def csd_network(width=128, layers=2, patch=8, side=32, style=24):
    """open_clip's visual tower with OpenAI's activation and no projection, and a random style head."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = VisionTransformer(side, patch, width, layers, width // 64, 4.0, output_dim=style, act_layer=QuickGELU)
        for own in tower.parameters():
            own.data += 0.05 * torch.randn_like(own)  # no zeros and ones of the initialisation
        heads = torch.randn(2, width, style) * width**-0.5
    tower.proj = None
    return tower.eval(), heads[0], heads[1]


def csd_checkpoint(path, tower, style, content, **changes) -> None:
    """The released file's form: DataParallel's names beside optimisers, numpy scalars and the arguments' namespace."""
    state = {f"module.backbone.{key}": own for key, own in tower.state_dict().items()}
    state |= {"module.last_layer_style": style, "module.last_layer_content": content} | changes
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "lr": np.float64(1e-4)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save(
        {
            "model_state_dict": {key: own for key, own in state.items() if own is not None},
            "opt_bb": optimiser,
            "opt_proj": optimiser,
            "iter": 80000,
            "args": argparse.Namespace(lr=np.float64(0.1), arch="vit_large", out=None),
            "fp16_scaler": None,
        },
        path,
    )


@pytest.fixture
def csd_file(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    csd_checkpoint(path, *csd_network())
    return path


def test_csd_is_the_tower_times_the_style_head_on_the_unit_sphere(csd_file, tmp_path, monkeypatch, batch, capsys):
    run(monkeypatch, "csd", csd_file, tmp_path / "csd")
    sha256 = io.sha256(csd_file)
    assert f"csd of pytorch_model.bin, sha256 {sha256}, NOT the published file" in capsys.readouterr().out
    tower, style, _ = csd_network()
    entered = torch.stack(
        [published_transform(32, 32, transforms.InterpolationMode.BICUBIC, CLIP)(picture) for picture in batch]
    )
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(tower(entered) @ style, dim=1)
    found = judges.descriptor(str(tmp_path / "csd"), CPU)(batch)
    assert found.shape == (3, 24)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01

    told = weights.told(str(tmp_path / "csd"))
    assert told["made_of"] == {"kind": "csd", "file": "pytorch_model.bin", "sha256": sha256}
    assert told["weights"] == {"model.safetensors": io.sha256(tmp_path / "csd" / "model.safetensors")}
    config = json.loads((tmp_path / "csd" / "config.json").read_text())
    assert (config["hidden_act"], config["num_attention_heads"], config["projection_dim"]) == ("quick_gelu", 2, 24)


def test_csd_as_safetensors_and_in_half_precision_gives_the_same_folder(csd_file, tmp_path, monkeypatch, batch):
    state = foreign.read(csd_file)
    assert len(state) == 2 * 12 + 9  # as the released file has 24 * 12 + 9 = 297
    save_file({key: own.contiguous() for key, own in state.items()}, tmp_path / "model.safetensors")
    run(monkeypatch, "csd", csd_file, tmp_path / "a")
    run(monkeypatch, "csd", tmp_path / "model.safetensors", tmp_path / "b")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) and one[key].dtype == torch.float32 for key in one)
    save_file({key: own.half().contiguous() for key, own in state.items()}, tmp_path / "half.safetensors")
    run(monkeypatch, "csd", tmp_path / "half.safetensors", tmp_path / "c")
    near = judges.descriptor(str(tmp_path / "c"), CPU)(batch)
    torch.testing.assert_close(near, judges.descriptor(str(tmp_path / "a"), CPU)(batch), atol=1e-2, rtol=0)


def test_identity_and_record_follow_the_weights(csd_file, tmp_path, monkeypatch):
    folder = tmp_path / "csd"
    run(monkeypatch, "csd", csd_file, folder)
    before = recipe.of_model(str(folder), None)
    assert weights.told(str(folder))["made_of"]["kind"] == "csd"
    state = load_file(folder / "model.safetensors")
    state["visual_projection.weight"][0, 0] += 1
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert recipe.of_model(str(folder), None) != before
    with pytest.raises(
        UserError, match=r"model\.safetensors: its sha256 begins .*, in converted\.json .*make the folder"
    ):
        weights.told(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors there"):
        weights.told(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module.last_layer_style": None}, "lacks last_layer_style; its keys begin with backbone.class_embedding"),
        ({"module.backbone.ln_pre.bias": None}, "lacks vision_model.pre_layrnorm.bias"),
        ({"module.extra.weight": torch.ones(1)}, "unknown keys extra.weight"),
        ({"module.last_layer_style": torch.ones(5, 3)}, "has another shape of visual_projection.weight"),
    ],
)
def test_weights_of_another_form_are_refused_in_one_line(tmp_path, monkeypatch, changes, message):
    csd_checkpoint(tmp_path / "weights.pth", *csd_network(), **changes)
    with pytest.raises(UserError) as error:
        run(monkeypatch, "csd", tmp_path / "weights.pth", tmp_path / "out")
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "weights.pth"))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


# --- ResNet-50


def resnet(classes=7):
    from torchvision.models.resnet import Bottleneck, ResNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ResNet(Bottleneck, [2, 1, 1, 1], num_classes=classes)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return made.eval()


def test_resnet_is_torchvisions_with_its_preprocessing(tmp_path, monkeypatch, batch):
    model = resnet()
    names = ["tench", "English springer", "cassette player", "chain saw", "church", "French horn", "golf ball"]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    torch.save(model.state_dict(), tmp_path / "own.pth", _use_new_zipfile_serialization=False)  # older files' form
    run(monkeypatch, "resnet50", tmp_path / "own.pth", tmp_path / "out", "--labels", tmp_path / "labels.txt")
    entered = [published_transform(232, 224, transforms.InterpolationMode.BILINEAR, IMAGENET)(one) for one in batch]
    with torch.no_grad():
        wanted = model(torch.stack(entered)).softmax(1)
    labels, network = judges.classifier(str(tmp_path / "out"), CPU)
    probabilities, features = network(batch)
    assert labels == judges.labels(str(tmp_path / "out")) == names
    torch.testing.assert_close(probabilities, wanted, atol=1e-5, rtol=0)
    assert features.shape == (3, 2048)


def test_imagenets_names_are_torchvisions_and_at_unlearndiffatks_ids():
    from torchvision.models import ResNet50_Weights

    names = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    made = backbones._labels(1000, None, names)["id2label"]
    told = {"tench": 0, "church": 497, "parachute": 701}
    told |= {"English springer": 217, "cassette player": 482, "chain saw": 491, "French horn": 566}
    told |= {"garbage truck": 569, "gas pump": 571, "golf ball": 574}
    assert {name: made[number] for name, number in told.items()} == {name: name for name in told}
    assert all(f"{name} {number}" in " ".join(backbones.__doc__.split()) for name, number in told.items())
    preset = ResNet50_Weights.IMAGENET1K_V2.transforms()
    assert (preset.resize_size, preset.crop_size, preset.interpolation) == (
        [232],
        [224],
        transforms.InterpolationMode.BILINEAR,
    )
    assert (tuple(preset.mean), tuple(preset.std)) == backbones.IMAGENET


def test_a_file_whose_name_tells_another_hash_is_refused(tmp_path, monkeypatch):
    torch.save({"fc.weight": torch.ones(1)}, tmp_path / "resnet50-11ad3fa6.pth")
    with pytest.raises(UserError, match=r"its sha256 begins with [0-9a-f]{8}, its name says 11ad3fa6; fetch it again"):
        run(monkeypatch, "resnet50", tmp_path / "resnet50-11ad3fa6.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- ViT


def test_vit_is_timms_with_unlearncanvas_preprocessing(tmp_path, monkeypatch, batch):
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=3).eval()
        for own in model.parameters():
            own.data += 0.05 * torch.randn_like(own)
    torch.save({"model_state_dict": model.state_dict()}, tmp_path / "style.pth")
    (tmp_path / "labels.txt").write_text("Van_Gogh\nSeed_Images\nWinter\n")
    run(monkeypatch, "vit", tmp_path / "style.pth", tmp_path / "out", "--labels", tmp_path / "labels.txt")
    halves = ([0.5], [0.5])
    entered = [published_transform((32, 32), None, transforms.InterpolationMode.BILINEAR, halves)(one) for one in batch]
    with torch.no_grad():
        wanted = model(torch.stack(entered)).softmax(1)
    labels, network = judges.classifier(str(tmp_path / "out"), CPU)
    assert labels == ["Van_Gogh", "Seed_Images", "Winter"]
    torch.testing.assert_close(network(batch)[0], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has 3 outputs, so --labels needs that many lines; none are known"),
        ("a\nb\n", "it has 3 outputs, so --labels needs that many lines; .*labels.txt has 2"),
        ("a\nb\na\n", "a label stands there twice"),
    ],
)
def test_labels_must_fit(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        backbones._labels(3, path if text else None, None)


def test_what_else_is_wrong_is_told_in_one_line(csd_file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        run(monkeypatch, "csd", tmp_path / "absent.pth", tmp_path / "out")
    with pytest.raises(UserError, match="is there already; give another folder"):
        run(monkeypatch, "csd", csd_file, tmp_path)
    with pytest.raises(UserError, match="a descriptor has no labels"):
        run(monkeypatch, "csd", csd_file, tmp_path / "out", "--labels", csd_file)
    with pytest.raises(UserError, match=r"lacks fc\.weight"):
        run(monkeypatch, "resnet50", csd_file, tmp_path / "out")
    with pytest.raises(UserError, match=r"lacks patch_embed\.proj\.weight"):
        run(monkeypatch, "vit", csd_file, tmp_path / "out")


def test_the_command_ends_in_one_line_without_a_traceback(tmp_path):
    words = [sys.executable, "-m", "lethe.measuring.backbones", "csd", "absent.pth", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: absent.pth: no such file\n"


# --- reading what others pickled


class Boom:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_no_code_of_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"state_dict": {"a": torch.ones(1)}, "x": Boom()}, "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"bad\.pth: not a checkpoint whose tensors can be read without running"):
            foreign.read("bad.pth")
    assert not os.path.exists("it-ran")


def test_tensors_alone_are_read(tmp_path):
    path = tmp_path / "own.pth"
    for holder in (*foreign.HOLDERS, None):
        state = {"module.a.weight": torch.arange(3.0), "b": np.float64(2), "c": {"d": torch.ones(1)}}
        torch.save({holder: state, "epoch": 3} if holder else state, path)
        found = foreign.read(path)
        assert found.keys() == {"a.weight"}
        assert found["a.weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_files_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "own.pth"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.pth: (not a checkpoint|holds no tensors)"):
        foreign.read(path)
    (tmp_path / "own.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match=r"own\.safetensors: not a whole safetensors file"):
        foreign.read(tmp_path / "own.safetensors")
