"""A base that is not whole, or not what the code assumes, is refused in one line before any work."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lethe.files.errors import UserError
from lethe.models import pipelines, unets
from lethe.models.whole import check_finite, check_keys

FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def edit(base, part: str, change) -> None:
    file = base / part / FILES[part]
    state = load_file(file)
    change(state)
    save_file(state, file, {"format": "pt"})


def refusal(base, part: str) -> str:
    with pytest.raises(UserError) as caught:
        pipelines.load_base(str(base), None, [part])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first(state: dict, word: str) -> str:
    return next(key for key in state if word in key)


@pytest.mark.parametrize(
    ("part", "word"),
    [("text_encoder", "token_embedding"), ("unet", "conv_in.weight"), ("vae", "decoder.conv_out.weight")],
)
def test_a_part_that_lacks_a_weight(base, part, word, capfd):
    edit(base, part, lambda state: state.pop(first(state, word)))
    text = refusal(base, part)
    assert f"its {part}: lacks weight" in text and word in text and "make it again" in text
    assert capfd.readouterr() == ("", "")  # no loader has words of its own


@pytest.mark.parametrize("part", list(FILES))
@pytest.mark.parametrize(
    ("rename", "told"),
    [
        ("module.{}".format, "model.module"),
        ("_orig_mod.{}".format, "compiled model"),
        (lambda key: key.removesuffix("weight") + "base_layer.weight", "merge"),
    ],
)
def test_a_part_whose_weights_are_named_otherwise(base, part, rename, told):
    def change(state: dict) -> None:
        key = first(state, "norm" if part == "vae" else "weight")
        state[rename(key)] = state.pop(key)

    edit(base, part, change)
    text = refusal(base, part)
    assert "lacks weight" in text and "its config knows nothing of" in text and told in text


@pytest.mark.parametrize("part", list(FILES))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_part_with_a_number_that_is_none(base, part, value):
    edit(base, part, lambda state: state[first(state, "norm")].view(-1)[1:2].fill_(value))
    text = refusal(base, part)
    assert f"its {part}: weight" in text and "has 1 of" in text and "NaN or infinite" in text


def test_finite_numbers_whose_sum_is_not_are_good():
    check_finite("here", {"large": torch.full((8,), 3e38), "count": torch.tensor(3)})


def test_a_message_names_three_keys_at_most():
    with pytest.raises(UserError, match=r"lacks 5 weights \(a, b, c, \.\.\.\); "):
        check_keys("here", "edcba", [])
    check_keys("here", [], [])


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("text_encoder", {"model_type": "t5"}, "'t5', not CLIP's"),
        ("unet", {"class_embed_type": "projection"}, "class_embed_type 'projection': a class or image embedding"),
        ("unet", {"addition_embed_type": "text_time"}, "SDXL"),
        ("unet", {"time_cond_proj_dim": 256}, "guidance embedding (LCM)"),
        ("unet", {"in_channels": 9}, "reads 9 channels"),
        ("unet", {"in_channels": 9}, "an inpainting or depth model"),
    ],
)
def test_a_part_that_wants_to_be_fed_otherwise(base, part, values, told):
    config = base / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    with pytest.raises(UserError) as caught:
        pipelines.check_base(str(base), None)
    assert told in str(caught.value) and f"its {part}" in str(caught.value)


def test_weights_that_are_not_finite_are_not_kept(tiny_base, tmp_path):
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(UserError, match=r"the U-Net made here: weight conv_out.bias has 1 of"):
        unets.save_unet(unet, None, tmp_path)
    assert list(tmp_path.iterdir()) == []
