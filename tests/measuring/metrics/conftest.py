"""The tiny judges, made once for the tests of all metrics."""

from pathlib import Path

import pytest

from lethe.measuring import judges
from tests import tiny_judges


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory) -> Path:
    return tiny_judges.judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="session")
def options(judge_folder) -> dict:
    """Section score."""
    return tiny_judges.section(judge_folder)


@pytest.fixture(autouse=True)
def no_stand_in_is_remembered():
    """A CLIP that one test put in a network's place is not another's."""
    judges.clip_or_reason.cache_clear()
    yield
    judges.clip_or_reason.cache_clear()
