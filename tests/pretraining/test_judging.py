"""The judges' networks: EfficientNet-Lite0 as its package orders it, and its first stages under transformers' names."""

import pytest
import timm
import torch

from lethe.files import tensors
from lethe.files.errors import UserError
from lethe.pretraining import diffusion, judging, networks, trunk
from lethe.pretraining.pictures import Row


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A trunk of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    tensors.save(path, timm.create_model(trunk.ARCHITECTURE, num_classes=0).state_dict())
    return path


def test_the_packages_tensors_go_by_order_and_shape():
    own = timm.create_model(trunk.ARCHITECTURE).state_dict()
    package = {f"tensor{number}": value for number, value in enumerate(own.values())}
    found = trunk.timm_names(package)
    assert len(package) == 296 and len(found) == 294
    assert all(torch.equal(found[key], own[key]) for key in found)
    with pytest.raises(UserError, match="its 295 tensors are not the 296"):
        trunk.timm_names(dict(list(package.items())[1:]))


def test_another_file_is_no_trunk(tmp_path):
    tensors.save(tmp_path / "other.safetensors", {"a": torch.zeros(2)})
    with pytest.raises(UserError, match=r"not tf_efficientnet_lite0 as lethe\.pretraining\.trunk writes it: conv_stem"):
        trunk.load(tmp_path / "other.safetensors")


@torch.no_grad()
def test_the_judge_of_style_begins_as_the_trunk_does(weights):
    judge, whole = judging.Style(["a", "b"], weights).train(), trunk.load(weights).eval()
    x = torch.rand(2, 3, judging.SIDE, judging.SIDE) * 2 - 1
    assert torch.equal(judge.early(x), whole.blocks[:3](whole.bn1(whole.conv_stem(x))))


def test_the_judge_of_style_learns_its_detectors_alone(weights):
    judge = judging.Style(["a", "b"], weights)
    before = {key: value.clone() for key, value in judge.state_dict().items()}
    bank = torch.randint(0, 256, (8, 64, 64, 4), dtype=torch.uint8)
    job = judging.style_job(judge, bank, torch.tensor([0, 1] * 4), batch=4)
    job.compute(job.draw(torch.Generator().manual_seed(0)))
    changed = {key for key, value in judge.state_dict().items() if not torch.equal(value, before[key])}
    assert {"net.classifier.weight", "net.efficientnet.encoder.top_conv.weight"} <= changed
    assert not any("blocks" in key or "embeddings" in key for key in changed)


def test_one_content_in_ten_teaches_no_style_and_always_the_same():
    contents = [f"thing {number}" for number in range(1000)]
    found = judging.unseen(contents)
    assert 70 < sum(found) < 130
    assert judging.unseen(contents[::-1])[::-1] == found


def test_a_caption_longer_than_the_tokenizer_is_named():
    rows = [Row("a.png", "a boat " * 20, "ink", "boat")]
    words = networks.tokenizer(diffusion.corpus(rows), 300)
    with pytest.raises(
        UserError, match=r"my set: caption 'a boat .* tokens, at most 24 are read; shorten it, or raise"
    ):
        diffusion.token_ids(words, [rows[0].text], "my set")
