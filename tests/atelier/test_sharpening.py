"""The decoder learns against a critic; the encoder, and so every latent, stays."""

import numpy as np
import pytest
import torch
from torch import nn

from lethe.atelier import sharpening
from lethe.atelier.world import render
from lethe.pretraining import losses, networks
from lethe.training import loop


@pytest.fixture(scope="module")
def pictures():
    return np.stack([render("boat", "monet", seed) for seed in range(8)])


def parts():
    torch.manual_seed(0)
    vae = networks.autoencoder()
    return vae, nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})


def test_the_critics_gradient_has_its_share_of_the_reconstructions():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    found = sharpening.balanced(x, (x**2).sum() / 2, 100 * x[0])
    assert torch.allclose(found, torch.tensor([3.0, 4.0]) + losses.STRENGTH * 5 * torch.tensor([1.0, 0.0]))


def test_only_the_decoder_changes(pictures, tmp_path):
    vae, decoder = parts()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    sharpening.sharpen(vae, decoder, pictures, steps=2, batch=2, seed=0, state=tmp_path / "state")
    changed = {key.split(".")[0] for key, value in vae.state_dict().items() if not value.equal(before[key])}
    assert changed == {"post_quant_conv", "decoder"}


def sharpened(pictures, state):
    vae, decoder = parts()
    sharpening.sharpen(vae, decoder, pictures, steps=4, batch=2, seed=0, state=state)
    return decoder.state_dict()


def test_a_run_that_was_stopped_ends_like_one_that_was_not(pictures, tmp_path, monkeypatch):
    whole = sharpened(pictures, tmp_path / "whole")
    save = loop._save

    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sharpening, "CHECKPOINT_SECONDS", 0.0)
        patched.setattr(loop, "_save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            sharpened(pictures, tmp_path / "stopped")
    resumed = sharpened(pictures, tmp_path / "stopped")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
