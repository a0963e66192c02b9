"""The tiny judges, made once for the tests of all metrics."""

from pathlib import Path

import pytest

from tests import tiny_judges


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory) -> Path:
    return tiny_judges.judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="session")
def options(judge_folder) -> dict:
    """Section score."""
    return tiny_judges.section(judge_folder)
