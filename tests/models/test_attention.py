import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from lethe.files.errors import UserError
from lethe.models import attention
from tests.tiny_training import encoded, pair


@pytest.fixture(params=["tiny_base", "other_base"])
def student(request):
    return pair(request.getfixturevalue(request.param))[1]


def inputs(unet):
    found = encoded(unet, rows=2)
    return found.mean, torch.tensor([3, 700]), found.embeddings.float()


def without_heads(unet):
    """Loses the first head of each cross-attention that has two."""
    from lethe.models.cutting import cut

    layers = {
        name: {"kind": "heads", "total": module.heads, "kept": list(range(1, module.heads))}
        for name, module in unet.named_modules()
        if name.endswith("attn2") and module.heads > 1
    }
    assert layers
    cut(unet, layers)


def without_a_block(unet):
    unet.mid_block = None


@pytest.mark.parametrize("change", [lambda unet: None, without_heads, without_a_block])
@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_the_same_answer_as_of_the_librarys_processors(student, change, processor):
    change(student)
    student.set_attn_processor(processor())
    own = dict(student.attn_processors)
    values = inputs(student)
    with torch.no_grad():
        wanted = student(*values).sample
        with attention.recorded(student) as maps:
            found = student(*values).sample
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    layers = [(name, m) for name, m in student.named_modules() if name.endswith("attn2")]
    assert len(maps) == len(layers) > 0
    assert sorted(m.shape[1] for m in maps) == sorted(layer.heads for _, layer in layers)
    assert all(m.shape[0] == 2 and m.shape[3] == 8 for m in maps)
    for probabilities in maps:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    assert student.attn_processors == own  # the very objects


def test_maps_have_graphs_and_gradients_are_those_of_the_librarys_processors(student):
    other, values = copy.deepcopy(student), inputs(student)
    with attention.recorded(student) as maps:
        student(*values).sample.square().mean().backward()
    other(*values).sample.square().mean().backward()
    assert all(m.requires_grad for m in maps)
    for one, two in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-3)


def test_processors_come_back_after_an_error_and_modules_stay_modules(student):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.plain = torch.nn.Parameter(torch.ones(1)), AttnProcessor2_0()

        def forward(self, *args, **keywords):
            return self.plain(*args, **keywords)

    name, layer = next((name, m) for name, m in student.named_modules() if name.endswith("attn2"))
    layer.set_processor(Own())
    own = layer.processor
    with pytest.raises(KeyboardInterrupt), attention.recorded(student):
        raise KeyboardInterrupt
    assert layer.processor is own
    assert f"{name}.processor.weight" in dict(student.named_parameters())


def test_a_unet_without_cross_attention_is_refused():
    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
    )
    with pytest.raises(UserError, match="no cross-attention"), attention.recorded(plain):
        pass
