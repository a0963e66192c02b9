import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lethe.files.errors import UserError
from lethe.measuring import judges

CPU = torch.device("cpu")


@pytest.fixture
def batch():
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]


def unit(batch) -> torch.Tensor:
    """Pictures as [-1, 1], as the tiny judges' preprocessing has them."""
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1 for picture in batch])


def test_classifier_gives_probabilities_and_penultimate_features(judge_folder, batch):
    from transformers import AutoModelForImageClassification

    labels, network = judges.classifier(str(judge_folder / "style"), CPU)
    assert labels == judges.labels(str(judge_folder / "style")) == ["monet", "cassatt", "munch", "picasso"]
    probabilities, features = network(batch)
    model = AutoModelForImageClassification.from_pretrained(judge_folder / "style", dtype=torch.float32).eval()
    with torch.no_grad():
        pooled = model.resnet(unit(batch)).pooler_output.flatten(1)
        wanted = model(unit(batch)).logits.softmax(1)
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(probabilities, wanted)
    assert judges.features(str(judge_folder / "style"), CPU)(batch).shape == (3, 12)
    assert judges.classifier(str(judge_folder / "style"), CPU)[1] is network


def test_descriptor_is_the_pooled_output_on_the_unit_sphere(judge_folder, batch):
    from transformers import AutoModel

    found = judges.descriptor(str(judge_folder / "descriptor"), CPU)(batch)
    model = AutoModel.from_pretrained(judge_folder / "descriptor", dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model(unit(batch)).pooler_output.flatten(1), dim=1)
    torch.testing.assert_close(found, wanted)


def test_descriptor_with_a_projection_gives_image_embeds(tmp_path, judge_folder, batch):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=6)
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    shutil.copy(judge_folder / "style" / "preprocessor_config.json", tmp_path)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model(unit(batch)).image_embeds, dim=1)
    torch.testing.assert_close(judges.descriptor(str(tmp_path), CPU)(batch), wanted)


def test_clip_from_a_local_folder(judge_folder, batch):
    import open_clip

    name = f"local-dir:{judge_folder / 'clip'}"
    of_pictures, of_texts = judges.clip(name, CPU)
    model, _, preprocess = open_clip.create_model_and_transforms(name, precision="fp32")
    with torch.no_grad():
        wanted = model.eval().encode_image(torch.stack([preprocess(picture) for picture in batch]))
    torch.testing.assert_close(of_pictures(batch), torch.nn.functional.normalize(wanted, dim=1))
    texts = of_texts(["a boat", "a house by monet", "a boat"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts[0], texts[2])
    assert not torch.allclose(texts[0], texts[1])
    assert not torch.equal(of_pictures(batch[:1]), of_pictures(batch[1:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "ViT-B-32"}, "neither local-dir:FOLDER nor NAME@PRETRAINED"),
        ({"clip": "ViT-B-32@weights.bin"}, r"score\.clip: weights\.bin is a file; .*local-dir:FOLDER"),
        ({"features": "owner/name@main"}, r"score\.features: owner/name@main: .*not a hub id with its commit"),
    ],
)
def test_wrong_networks_are_refused_before_they_load(options, change, message, tmp_path, monkeypatch):
    judges.check(options)
    (tmp_path / "weights.bin").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        judges.check(options | change)


def test_a_damaged_judge_is_told_in_one_line(judge_folder, tmp_path, options):
    folder = shutil.copytree(judge_folder / "style", tmp_path / "style")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    del state["classifier.1.weight"]
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack classifier\.1\.weight"):
        judges.classifier(str(folder), CPU)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot load it"):
        judges.classifier(str(folder), CPU)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json: no such file"):
        judges._preprocessing(str(folder), CPU)
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(UserError, match="no id2label"):
        judges.labels(str(folder))


def test_damaged_clip_weights_are_refused(judge_folder, tmp_path):
    folder = shutil.copytree(judge_folder / "clip", tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"score\.clip: cannot load"):
        judges.clip(f"local-dir:{folder}", CPU)
