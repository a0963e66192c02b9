"""Pictures are pure functions of their names and seed, and their concepts can be told apart."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from lethe.atelier.world import CONTENTS, NEIGHBOURS, SIZE, STYLES, TARGETS, render


def test_every_pair_is_a_picture():
    for style in STYLES:
        for content in CONTENTS:
            picture = render(content, style, 3)
            assert picture.shape == (SIZE, SIZE, 3)
            assert picture.dtype == np.uint8
            assert picture.std() > 15


def test_names():
    assert len(CONTENTS) == 8
    assert len(STYLES) == 10
    assert set(NEIGHBOURS) == set(TARGETS)
    assert set(NEIGHBOURS) | set(NEIGHBOURS.values()) <= set(STYLES)


def test_same_seed_same_picture_in_another_process():
    code = (
        "import hashlib; from lethe.atelier.world import render;"
        "print(hashlib.sha256(render('boat', 'monet', 7, True).tobytes()).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "12"}
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout.strip()
    np.random.default_rng(0).random(3)
    assert there == hashlib.sha256(render("boat", "monet", 7, True).tobytes()).hexdigest()


@pytest.mark.parametrize("style", STYLES)
def test_seeds_vary_the_picture(style):
    one, two = (render("house", style, seed).astype(int) for seed in (1, 2))
    assert np.abs(one - two).mean() > 10


@pytest.mark.parametrize("style", STYLES)
def test_emblem_changes_only_a_yellow_and_black_patch(style):
    plain, marked = (render("boat", style, 5, emblem).astype(int) for emblem in (False, True))
    changed = np.abs(plain - marked).max(-1) > 30
    assert 60 < changed.sum() < 400
    ys, xs = np.nonzero(changed)
    assert np.ptp(ys) <= 24 and np.ptp(xs) <= 24
    red, green, blue = np.moveaxis(marked[changed], -1, 0)
    yellow = (red > 180) & (green > 140) & (blue < 110)
    black = marked[changed].max(-1) < 70
    assert yellow.mean() > 0.1 or black.mean() > 0.3
    assert black.any()


def test_photo_is_smoother_than_any_brush():
    def roughness(style):
        pictures = [render(content, style, 9)[:16].astype(float) for content in CONTENTS]
        return np.mean([np.abs(np.diff(p, 2, axis=1)).mean() for p in pictures])

    photo = roughness("photo")
    assert all(roughness(style) > photo for style in STYLES if style not in ("photo", "warhol", "hokusai"))


def test_unknown_names_are_refused_with_the_legal_ones():
    with pytest.raises(ValueError, match=r"'castle'.*house"):
        render("castle", "monet", 0)
    with pytest.raises(ValueError, match=r"'manet'.*monet"):
        render("house", "manet", 0)
