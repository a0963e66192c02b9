"""What erasers are tried on, and how one is stopped amid its steps."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lethe.models import pipelines
from tests.tiny_training import same


def load(path: Path) -> SimpleNamespace:
    """All parts of a base model, and its latents' shape."""
    found = pipelines.load_base(str(path), None, ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
    found.latent_shape = pipelines.latent_shape(found.unet, found.vae)
    return found


def check_resume(run: Callable, eraser: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int = 4) -> None:
    """`run(folder)` -> U-Net, progress, budget: stopped in step `at` and called again, it ends as undisturbed."""
    wanted, _, budget = run(folder / "whole")
    descend, steps = eraser.descend, []

    def stopping(*arguments: object) -> None:
        steps.append(1)
        if len(steps) == at:
            raise KeyboardInterrupt
        descend(*arguments)

    monkeypatch.setattr(eraser, "descend", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "cut")
    found, _, counted = run(folder / "cut")
    assert same(found, wanted)
    assert counted == budget
