"""What each variant trains, counted on a small net."""

import pytest
from torch import nn

from lethe.erasing import trainable
from lethe.files.errors import UserError
from lethe.models import pipelines

# Of the 208 tensors 20 are of cross-attention, 8 of its keys and values; 66 of norms, 2 of them after the last block;
# 4 of the embedding of time, 2 of the last convolution.
TENSORS = {"x": 20, "x-strict": 8, "u": 122, "all": 142, "noxattn": 180, "notime": 200, "full": 208}


@pytest.mark.parametrize("variant", trainable.VARIANTS)
def test_a_variant_trains_what_the_release_of_its_name_does(variant, tiny_base):
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    chosen = trainable.select(unet, variant, "")
    assert len(chosen) == TENSORS[variant]
    assert [id(p) for p in unet.parameters() if p.requires_grad] == [id(p) for p in chosen]


def test_norms_are_the_difference_between_the_releases(tiny_base):
    """all and full differ in the norms; notime and full in the embedding of time and what follows the last block."""
    unet = pipelines.load_base(str(tiny_base), None, ["unet"]).unet
    paths = {id(p): name for name, p in unet.named_parameters()}
    own = {name: {paths[id(p)] for p in trainable.select(unet, name, "")} for name in trainable.VARIANTS}
    assert own["all"] == own["u"] | own["x"] and own["x-strict"] < own["x"]
    norms = {
        f"{path}.{name}"
        for path, module in unet.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    assert own["full"] - own["all"] == norms
    ends = {"time_embedding", "conv_norm_out", "conv_out"}
    assert {path.split(".")[0] for path in own["full"] - own["notime"]} == ends
    assert own["noxattn"] == own["notime"] - own["x"]


def test_a_variant_that_selects_nothing_is_refused():
    with pytest.raises(UserError, match=r"erase\.esd\.variant: 'x' selects no parameter"):
        trainable.select(nn.Sequential(nn.Linear(2, 2)), "x", "erase.esd")
