import pytest

from tests import fabricated


@pytest.fixture(scope="session")
def plan_path(tmp_path_factory):
    """A whole fabricated experiment with two training seeds; tests only read it."""
    return fabricated.experiment(tmp_path_factory.mktemp("experiment"), fabricated.params(seeds=[0, 1]))
