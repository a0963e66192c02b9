import pytest

from tests import fabricated


@pytest.fixture(scope="session")
def plan_path(tmp_path_factory):
    """A whole fabricated experiment with two training seeds; tests only read it."""
    return fabricated.experiment(tmp_path_factory.mktemp("experiment"), fabricated.params(seeds=[0, 1]))


@pytest.fixture(scope="session")
def tables_path(tmp_path_factory):
    """One with further tables: two axes, one axis and several arms, another budget, a whole-numbered axis."""
    values = fabricated.params(seeds=[0, 1])
    values["tables"] = {
        "solvers": fabricated.table(
            ["bilevel"],
            {
                "solver": {"alternate": {}, "penalty": {"bilevel.solver": "penalty"}},
                "frequency": {"10": {}, "5": {"bilevel.upper_every": 5}},
            },
        ),
        "plugins": fabricated.table(
            ["distill", "bilevel", "esd"], {"pruner": {"l2": {}, "taylor": {"prune.pruner": "taylor"}}}, seeds=[0]
        ),
        "distillation": fabricated.table(
            ["distill"],
            {
                "loss": {"both": {}, "diffusion": {"distill.w_out": 0.0}},
                "iterations": {"60": {}, "9": {"distill.steps": 9}},
            },
            budgets=[0.55, 0.8],
        ),
        "orders": fabricated.table(["esd"], {"order": {"usual": {}, "dense": {"grid.order": "erase"}}}),
        "keeping": fabricated.table(
            ["pruned"], {"keep_least": {"0.2": {}, "0.1": {"prune.keep_least": 0.1}}}, seeds=[1]
        ),
    }
    latency = {"dense": {"1": 30.0, "8": 200.0}, "kept": {"1": 25.0, "8": 160.0}}
    fid = {"distill": (20.0, 1.0), "distill both 9": (80.0, 1.0), "distill diffusion 60": (40.0, 1.0)}
    fid |= {"bilevel": (20.5, 0.5), "bilevel penalty 10": (18.0, 0.5), "distill diffusion 9": (160.0, 1.0)}
    return fabricated.experiment(
        tmp_path_factory.mktemp("tables"),
        values,
        side=8,
        fid=fid,
        meta={"pruned": {"latency_ms": latency}, "esd": {"eraser": {"zeroed": 0.0012}}},
    )
