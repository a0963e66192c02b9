"""What the training stages start from, made by the stages before them, once a session."""

import pytest

from tests.stages.running import Ready, prepare


@pytest.fixture(scope="session")
def tiny(tiny_base, tiny_pictures, tmp_path_factory) -> Ready:
    return prepare(tiny_base, tiny_pictures, tmp_path_factory.mktemp("tiny_ready"))


@pytest.fixture(scope="session")
def other(other_base, tiny_pictures, tmp_path_factory) -> Ready:
    return prepare(other_base, tiny_pictures, tmp_path_factory.mktemp("other_ready"))


@pytest.fixture(params=["tiny", "other"])
def ready(request) -> Ready:
    return request.getfixturevalue(request.param)
