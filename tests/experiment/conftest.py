"""An experiment to plan, on a tiny base."""

import copy
from pathlib import Path

import pytest

from tests import experiments


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tiny_base, tiny_pictures):
    root = tmp_path_factory.mktemp("plan")
    return root, experiments.write(root, tiny_base, tiny_pictures) | {"tables": {}}


@pytest.fixture
def root(planned, monkeypatch) -> Path:
    monkeypatch.chdir(planned[0])
    return planned[0]


@pytest.fixture
def params(planned, root) -> dict:
    return copy.deepcopy(planned[1])
