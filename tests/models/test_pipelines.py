"""Loading whole and refusing the rest in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lethe.files.errors import UserError
from lethe.files.io import sha256, write_json
from lethe.models import cutting, pipelines, unets

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_base, tmp_path) -> Path:
    """A base that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def refused(call, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("name", "prediction", "shape", "length", "width"),
    [("tiny_base", "v_prediction", (4, 8, 8), 16, 16), ("other_base", "epsilon", (4, 12, 12), 20, 24)],
)
def test_parts_are_frozen_float32_and_embed_as_the_pipeline_does(request, name, prediction, shape, length, width):
    path = str(request.getfixturevalue(name))
    pipelines.check_base(path, None)
    base = pipelines.load_base(path, None, PARTS)
    for net in (base.unet, base.vae, base.text_encoder):
        assert not net.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.parameters())
    assert base.scheduler.config.prediction_type == prediction
    assert not base.scheduler.config.clip_sample
    assert pipelines.latent_shape(base.unet) == shape
    assert pipelines.vae_scale(base.vae) == 4
    assert pipelines.latent_shape(base.unet, base.vae, 64) == (4, 16, 16)
    refused(lambda: pipelines.latent_shape(base.unet, base.vae, 63), "63", "multiple of 4")
    assert pipelines.text_length(path, None) == length

    prompts = ["a boat by van gogh", "", "long words " * 30]
    ours = pipelines.encode_prompts(base.tokenizer, base.text_encoder, prompts)
    assert ours.shape == (3, length, width)
    pipeline = StableDiffusionPipeline.from_pretrained(path, safety_checker=None)
    theirs, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(ours, theirs)


def test_parts_alone_and_half_precision(copy):
    assert list(vars(pipelines.load_base(str(copy), None, ["scheduler"]))) == ["scheduler"]
    unet = pipelines.load_base(str(copy), None, ["unet"]).unet
    unet.half().save_pretrained(copy / "unet", variant="fp16")
    (copy / "unet" / WEIGHTS).unlink()
    again = pipelines.load_base(str(copy), None, ["unet"]).unet
    pipelines.check_base(str(copy), None)
    assert all(torch.equal(a.float(), b) for a, b in zip(unet.parameters(), again.parameters(), strict=True))
    assert again.conv_in.weight.dtype == torch.float32


def test_hook_blocks(tiny_base):
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    blocks = dict(unets.hook_blocks(unet))
    assert list(blocks) == ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    assert all(blocks[name] is unet.get_submodule(name) for name in blocks)
    unet.mid_block = None
    assert "mid_block" not in dict(unets.hook_blocks(unet))


def test_bad_bases(copy, tmp_path):
    check = lambda path: lambda: pipelines.check_base(str(path), None)  # noqa: E731
    refused(check(tmp_path / "absent"), "no such folder")
    refused(check(tmp_path), "model_index.json")
    shorten(copy / "vae" / WEIGHTS)
    refused(check(copy), "vae", "truncated")
    refused(lambda: pipelines.load_base(str(copy), None, ["vae"]), "truncated")
    (copy / "vae" / WEIGHTS).write_bytes(b"what is this?")
    refused(check(copy), "vae", "safetensors")
    (copy / "text_encoder" / "model.safetensors").unlink()
    (copy / "vae" / WEIGHTS).write_bytes((copy / "unet" / WEIGHTS).read_bytes())
    refused(check(copy), "text_encoder", "no such weight file")
    (copy / "scheduler" / "scheduler_config.json").unlink()
    refused(check(copy), "scheduler_config.json", "no such file")
    write_json(copy / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    refused(check(copy), "StableDiffusionXLPipeline", "StableDiffusionPipeline")


def test_weights_that_do_not_fit_their_config(copy):
    shutil.copy(copy / "vae" / WEIGHTS, copy / "unet" / WEIGHTS)
    refused(lambda: unets.load_unet(copy), "its unet: lacks", "its config knows nothing of")


def test_a_check_costs_no_torch(tiny_base):
    code = (
        "import sys; from lethe.models.pipelines import check_base; check_base(sys.argv[1], None);"
        "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_base)], check=True, cwd=Path(__file__).parents[2])


@pytest.fixture
def weights(tiny_base, tmp_path) -> Path:
    """A finished weights folder with a cut U-Net."""
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    layers = {
        "mid_block.resnets.0": {"kind": "resnet", "total": 32, "kept": [0, 9, 17, 31]},
        "mid_block.attentions.0.transformer_blocks.0.attn2": {"kind": "heads", "total": 4, "kept": [1, 2]},
        "mid_block.attentions.0.transformer_blocks.0.ff": {"kind": "ffn", "total": 128, "kept": [3, 100]},
    }
    cutting.cut(unet, layers)
    folder = tmp_path / "weights"
    unets.save_unet(unet, {"budget": 0.9, "layers": layers}, folder)
    files = {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*.*")}
    write_json(folder / "meta.json", {"recipe": "0" * 10, "files": files})
    return folder


def test_cut_and_loader_agree(weights, tiny_base):
    dense = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    unet = unets.load_unet(weights)
    assert not unet.training
    attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    assert (attention.heads, attention.inner_dim, attention.inner_kv_dim) == (2, 16, 16)
    assert attention.scale == dense.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").scale
    block, whole = unet.mid_block.resnets[0], dense.mid_block.resnets[0]
    assert (block.conv1.out_channels, block.conv2.in_channels, block.norm2.num_channels) == (4, 4, 4)
    assert block.norm2.num_groups == whole.norm2.num_groups == 4
    kept = [0, 9, 17, 31]
    assert torch.equal(block.conv1.weight, whole.conv1.weight[kept])
    assert torch.equal(block.time_emb_proj.bias, whole.time_emb_proj.bias[kept])
    assert torch.equal(block.norm2.weight, whole.norm2.weight[kept])
    assert torch.equal(block.conv2.weight, whole.conv2.weight[:, kept])
    feed, full = (net.mid_block.attentions[0].transformer_blocks[0].ff for net in (unet, dense))
    assert torch.equal(feed.net[0].proj.weight, full.net[0].proj.weight[[3, 100, 131, 228]])
    assert torch.equal(feed.net[2].weight, full.net[2].weight[:, [3, 100]])
    assert unets.read_pruning(weights)["budget"] == 0.9
    assert "_name_or_path" not in json.loads((weights / "unet" / "config.json").read_text())


def test_bad_weights_folders(weights, tmp_path):
    load = lambda: unets.load_unet(weights)  # noqa: E731
    refused(lambda: unets.load_unet(tmp_path / "nothing"), "no folder unet")
    file = weights / "unet" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(load, "sha256", WEIGHTS)
    shorten(file)
    refused(load, "truncated", WEIGHTS)
    file.unlink()
    refused(load, "missing", WEIGHTS)


def test_whole_norm_groups(tiny_base):
    """A group that goes takes its channels along; the other groups' statistics stay what they were."""
    dense = pipelines.load_base(str(tiny_base), None, ["unet"]).unet.mid_block.resnets[0]
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    cutting.cut(unet, {"mid_block.resnets.0": {"kind": "groups", "total": 4, "kept": [0, 3]}})
    block, kept = unet.mid_block.resnets[0], [*range(8), *range(24, 32)]
    assert (block.norm2.num_groups, block.norm2.num_channels) == (2, 16)
    assert torch.equal(block.conv1.weight, dense.conv1.weight[kept])
    assert torch.equal(block.time_emb_proj.weight, dense.time_emb_proj.weight[kept])
    assert torch.equal(block.conv2.weight, dense.conv2.weight[:, kept])
    x = torch.randn((2, 32, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block.norm2(x[:, kept]), dense.norm2(x)[:, kept], atol=1e-6)


def test_dropped_layers_pass_on_what_comes_in(other_base):
    unet = pipelines.load_base(str(other_base), None, ["unet"]).unet
    paths = ["down_blocks.0.resnets.1", "up_blocks.2.resnets.2", "mid_block.attentions.0"]
    cutting.cut(unet, {path: {"kind": "dropped", "total": 1, "kept": []} for path in paths})
    x, temb = torch.randn(1, 24, 4, 4), torch.randn(1, 96)
    assert torch.equal(unet.get_submodule(paths[0])(x, temb), x)
    skip = torch.randn(1, 24, 4, 4)
    assert torch.equal(unet.get_submodule(paths[1])(torch.cat([x, skip], 1), temb), x)
    transformer = unet.get_submodule(paths[2])
    assert transformer(x, encoder_hidden_states=skip, return_dict=False)[0] is x
    assert transformer(x, skip).sample is x
    assert not list(transformer.parameters())


@pytest.mark.parametrize(
    ("path", "layer", "words"),
    [
        ("down_blocks.1.resnets.0", {}, ["24 to 48", "has to stay"]),
        ("up_blocks.1.resnets.0", {}, ["has to stay"]),
        ("conv_in", {}, ["Conv2d", "cannot be dropped"]),
        ("down_blocks.0.resnets.1", {"kept": [0]}, ["keeps nothing"]),
    ],
)
def test_layers_that_cannot_be_dropped(other_base, path, layer, words):
    unet = pipelines.load_base(str(other_base), None, ["unet"]).unet
    with pytest.raises(ValueError) as caught:
        cutting.cut(unet, {path: {"kind": "dropped", "total": 1, "kept": []} | layer})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mid_block.resnets.0": {"kind": "dropped", "total": 1, "kept": []}},
        {"mid_block.resnets.0": {"kind": "groups", "total": 4, "kept": [0, 1, 2]}},
        {"mid_block.resnets.0": {"kind": "resnet", "total": 32, "kept": [0, 9, 17, 32]}},
        {"mid_block.resnets.0": {"kind": "resnet", "total": 16, "kept": [0, 9]}},
        {"mid_block.resnets.0": {"kind": "resnet", "total": 32, "kept": [0, 1, 17, 31]}},
        {"mid_block.resnets.0": {"kind": "width", "total": 32, "kept": [0]}},
        {"mid_block.resnets.9": {"kind": "resnet", "total": 32, "kept": [0]}},
        {"mid_block.resnets.0": {"total": 32}},
        {},
    ],
)
def test_pruning_that_does_not_fit_the_weights(weights, wrong):
    (weights / "meta.json").unlink()
    write_json(weights / "unet" / "pruning.json", {"layers": wrong})
    refused(lambda: unets.load_unet(weights), "do not fit")


def test_pruned_weights_without_pruning_json_are_not_mended_silently(weights):
    (weights / "unet" / "pruning.json").unlink()
    refused(lambda: unets.load_unet(weights), "pruning.json", "missing")
    (weights / "meta.json").unlink()
    refused(lambda: unets.load_unet(weights), "do not fit")


def test_pairs_of_blocks_whose_features_are_compared(other_base):
    """As BK-SDM compares them: no mid block, and without the innermost stage up blocks one further out."""
    from diffusers import UNet2DConditionModel

    teacher = pipelines.load_base(str(other_base), None, ["unet"]).unet
    same = ["down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"]
    assert unets.block_pairs(teacher, teacher) == [(name, name) for name in same]
    config = dict(teacher.config) | {"mid_block_type": None}
    small = UNet2DConditionModel.from_config(config)
    assert unets.block_pairs(small, teacher) == [(name, name) for name in same if name != "mid_block"]
    config |= {
        "block_out_channels": config["block_out_channels"][:2],
        "down_block_types": config["down_block_types"][:2],
        "up_block_types": config["up_block_types"][1:],
    }
    tiny = UNet2DConditionModel.from_config(config)
    assert unets.block_pairs(tiny, teacher) == [
        ("down_blocks.0", "down_blocks.0"),
        ("up_blocks.0", "up_blocks.1"),
        ("up_blocks.1", "up_blocks.2"),
    ]


def test_half_precision_in_several_files(tiny_base, tmp_path):
    """Diffusers' own files of a large fp16 model, as a base's U-Net and as one saved alone."""
    from diffusers import UNet2DConditionModel

    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    unet = UNet2DConditionModel.from_pretrained(base / "unet").half()
    shutil.rmtree(base / "unet")
    unet.save_pretrained(base / "unet", variant="fp16", max_shard_size="60KB")
    assert (base / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").is_file()
    pipelines.check_base(str(base), None)
    found = pipelines.load_base(str(base), None, ["unet"]).unet
    shutil.copytree(base / "unet", tmp_path / "alone")
    alone = unets.load_unet(tmp_path / "alone")
    for name, weight in unet.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight.float()) and torch.equal(
            alone.state_dict()[name], weight.float()
        )
    shorten(next((base / "unet").glob("*00003-of*.safetensors")))
    refused(lambda: pipelines.check_base(str(base), None), "00003-of", "truncated or damaged")
