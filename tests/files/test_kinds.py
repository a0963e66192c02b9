"""What was given for a model and is none is called what it is."""

import json

import pytest

from lethe.files import kinds
from lethe.files.errors import UserError
from lethe.models import pipelines, unets
from lethe.params import recipe
from lethe.texts.prompts import read_prompts
from lethe.training import pictures


def header(*names: str) -> bytes:
    """A safetensors file of one number a tensor."""
    held = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps({"__metadata__": {"format": "pt"}} | held).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


@pytest.fixture
def things(tmp_path):
    lora = header("unet.down.lora_A.weight", "unet.down.lora_B.weight", "lora_unet_x.alpha")
    for name, files in {
        "lora": {"mine.safetensors": lora},
        "peft": {"adapter_config.json": b"{}"},
        "single": {"v1-5.safetensors": header("model.diffusion_model.w")},
        "hub/models--org--name/snapshots/abc": {"model_index.json": b"{}"},
        "hub/models--org--name/refs": {"main": b"abc\n"},
        "hub/models--org--name/blobs": {},
        "plain": {"readme.txt": b"x"},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    (tmp_path / "link").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora", "a folder of a LoRA, which is no model by itself"),
        ("lora/mine.safetensors", "a LoRA, which is no model by itself"),
        ("peft", "a folder of a LoRA"),
        ("single", "a folder of files of weights (v1-5.safetensors)"),
        ("single/v1-5.safetensors", "a file of weights; give a folder"),
        ("hub/models--org--name", "a hub's cache of org/name; give {0}/hub/models--org--name/snapshots/abc"),
        ("hub", "a hub's cache of several models; give one, such as {0}/hub/models--org--name/snapshots/abc"),
        ("link", "broken link: nowhere is not there"),
    ],
)
def test_it_is_called_what_it_is(things, name, words):
    wanted = words.format(things)
    assert kinds.told(things / name).startswith(wanted)
    for check in (
        lambda: pipelines.check_base(str(things / name), None),
        lambda: unets.check_unet(things / name, "org/base"),
    ):
        with pytest.raises(UserError) as caught:
            check()
        assert str(caught.value).startswith(f"{things / name}: {wanted}")


def test_a_result_without_a_u_net_is_called_by_its_stage(tmp_path):
    (tmp_path / "latents.safetensors").write_bytes(header("latents"))
    (tmp_path / "meta.json").write_text('{"stage": "encode", "recipe": "0"}')
    assert kinds.told(tmp_path) is None
    with pytest.raises(UserError, match="a result of stage encode, which holds no U-Net"):
        unets.check_unet(tmp_path, "org/base")


def test_what_is_no_such_thing_is_not_named(things, tiny_base):
    for path in (things / "plain", things / "nowhere", things / "plain/readme.txt", tiny_base, tiny_base / "unet"):
        assert kinds.told(path) is None
    assert kinds.told(things / "hub/models--org--name/snapshots/abc") is None


def test_a_link_that_leads_nowhere_is_one_wherever_it_is_given(things):
    for read in (read_prompts, pictures.read, recipe.of_file, recipe.of_weights, recipe.of_result):
        with pytest.raises(UserError, match=r"link: broken link: nowhere is not there"):
            read(things / "link")
    with pytest.raises(UserError, match=r"link: broken link"):
        recipe.of_model(str(things / "link"), None)


def test_a_revision_is_no_folders(tiny_base):
    for check in (recipe.of_model, pipelines.check_base):
        with pytest.raises(UserError, match="is a folder, so no revision can be meant"):
            check(str(tiny_base), "0" * 40)
