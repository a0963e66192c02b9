"""What the faults happen to: every stage's command at a size of a second, and the processes that run them."""

import pytest

from tests.faults.commands import Case, cases
from tests.faults.nursery import Nursery
from tests.stages.running import Ready, prepare


@pytest.fixture(scope="session")
def ready(tiny_base, tiny_pictures, tmp_path_factory) -> Ready:
    return prepare(tiny_base, tiny_pictures, tmp_path_factory.mktemp("faults_ready"))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made


@pytest.fixture(scope="session")
def commands(ready, tiny_pictures, tmp_path_factory) -> dict[str, Case]:
    return cases(ready, tiny_pictures, tmp_path_factory.mktemp("commands"))
