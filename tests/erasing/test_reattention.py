"""Four frequencies by sums, against the FFT of the whole; hooks that act on one thread, in one call."""

import threading

import pytest
import torch
from diffusers import UNet2DConditionModel

from lethe.erasing.reattention import Reattention, damped, places


def by_fft(changed, plain, scale):
    found, other = (torch.fft.fft2(one.double()) for one in (changed, plain))
    factor = torch.ones(changed.shape[-2:], dtype=torch.float64)
    for row in (-1, 0):
        for column in (-1, 0):
            factor[row, column] = scale
    return torch.fft.ifft2(torch.where(found.abs() > other.abs(), found * factor, found)).real


@pytest.mark.parametrize("size", [(8, 8), (6, 9), (2, 2), (1, 4), (1, 1)])
def test_it_is_the_transform_with_louder_low_frequencies_scaled(size):
    changed, plain = torch.randn(2, 3, 5, *size, generator=torch.Generator().manual_seed(1))
    found = damped(changed, plain, 0.2)
    torch.testing.assert_close(found, by_fft(changed, plain, 0.2).float(), atol=1e-5, rtol=1e-5)
    assert not torch.equal(found, changed)


def test_by_hand():
    """A constant of 3 beside one of 2 loses a tenth: its mean is all that it has. Beside one of 4 it stays."""
    three = torch.full((1, 1, 4, 4), 3.0)
    torch.testing.assert_close(damped(three, torch.full_like(three, 2.0), 0.9), torch.full_like(three, 2.7))
    assert torch.equal(damped(three, torch.full_like(three, 4.0), 0.9), three)
    assert torch.equal(damped(three, three.clone(), 0.9), three)


def test_high_frequencies_stay():
    wave = torch.tensor([1.0, -1.0]).repeat(4).expand(8, 8)[None, None]
    torch.testing.assert_close(damped(wave, torch.zeros_like(wave), 0.2), wave)


def test_a_rows_bits_do_not_depend_on_its_neighbours():
    changed, plain = torch.randn(2, 7, 6, 8, 8, generator=torch.Generator().manual_seed(2))
    whole = damped(changed, plain, 0.9)
    for row in range(7):
        assert torch.equal(whole[row : row + 1], damped(changed[row : row + 1], plain[row : row + 1], 0.9))


def sd14():
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768)


def test_in_stable_diffusion_it_is_where_freeu_is():
    """1280 channels come to both inner up blocks and to the third's first block, 640 to its others and the last's
    first."""
    net = sd14()
    blocks = {part: name for name, part in net.named_modules()}
    found = [(blocks[part], width, scale) for part, width, scale in places(net)]
    inner = [(f"up_blocks.{i}.resnets.{j}", 1280, 0.9) for i in (0, 1) for j in range(3)]
    outer = [("up_blocks.2.resnets.0", 1280, 0.9), ("up_blocks.2.resnets.1", 640, 0.2)]
    outer += [("up_blocks.2.resnets.2", 640, 0.2), ("up_blocks.3.resnets.0", 640, 0.2)]
    assert found == inner + outer


def test_hooks_act_inside_alone_and_on_skip_features_of_the_changed_rows():
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=8,
    ).eval()
    seen = {}
    attention = Reattention(net)
    (part, width, scale), *_ = places(net)
    part.register_forward_pre_hook(lambda _part, inputs: seen.update(inputs=inputs[0]))
    values, text = torch.randn(6, 4, 8, 8), torch.randn(6, 2, 8)

    def call():
        with torch.no_grad():
            net(values, 10, text)
        return seen["inputs"]

    plain = call()
    both = torch.tensor([True, True])
    with attention.damping(torch.tensor([False, True]), 2):
        half = call()
    with attention.damping(both, 2):
        inside = call()
        other = []
        thread = threading.Thread(target=lambda: other.append(call()))
        thread.start()
        thread.join()
    assert torch.equal(other[0], plain)
    assert torch.equal(call(), plain)
    assert torch.equal(inside[[0, 1, 4, 5]], plain[[0, 1, 4, 5]])
    assert torch.equal(inside[:, :width], plain[:, :width])
    torch.testing.assert_close(inside[2:4, width:], damped(plain[2:4, width:], plain[4:6, width:], scale))
    assert not torch.equal(inside[2], plain[2]) and not torch.equal(inside[3], plain[3])
    assert torch.equal(half[2], plain[2]) and torch.equal(half[3], inside[3])
    attention.remove()
    with attention.damping(both, 2):
        assert torch.equal(call(), plain)
