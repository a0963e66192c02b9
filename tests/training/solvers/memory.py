"""Memory of a solver's step beyond that of plain fine-tuning, in copies of the U-Net's weights.

Not collected by `make test`, since each is a process of some GB: `python -m pytest -s
tests/training/solvers/memory.py`.
"""

import json
import subprocess
import sys

import pytest

from tests.tiny_training import OPTIONS, UPPER

PENALTY = {"solver": "penalty", "lambda": 1.0, "inner_steps": 1, "coupling": "none", "pull": 0.5}
PENALTY |= {"lambda_growth": 1.0, "lambda_most": 1.0, "gap_tolerance": 0.0, "second_copy": "device"}
SOLVERS = {
    "fine-tuning alone": {"solver": None},
    "weighted_sum": {"solver": "weighted_sum", "lambda": 1.0},
    "alternate": {"solver": "alternate", "upper_every": 1},
    "penalty": PENALTY,
}
WORK = """
import json, resource, sys, torch
from torch import nn
from lethe.training import finetune
from lethe.params import registry
torch.set_num_threads(1)
values = json.loads(sys.argv[1])
torch.manual_seed(0)
def top(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = top()
student = nn.Sequential(*(nn.Linear(512, 512) for _ in range(200)))  # 52 million weights, next to no activations
size = sum(p.numel() for p in student.parameters()) * 4
given = torch.randn(4, 512)
def level(model, k):
    value = model(given).square().mean()
    return value, {"loss": value}
if values["solver"] is None:
    training = finetune.solve(student, level, values)
else:
    training = registry.get("solvers", values["solver"]).solve(student, level, level, values)
for k in range(3):
    training.step(k)
held = sum(t.numel() * 4 for m in training.modules.values() for t in m.parameters())
states = [s for o in training.optimizers.values() for s in o.state.values()]
held += sum(t.numel() * 4 for s in states for t in s.values() if t.numel() > 1)
print(json.dumps([held / size, (top() - before) / size]))
"""


@pytest.mark.parametrize("name", SOLVERS)
def test_copies_of_the_weights(name):
    values = OPTIONS | UPPER | SOLVERS[name]
    run = subprocess.run([sys.executable, "-c", WORK, json.dumps(values)], capture_output=True, text=True, check=True)
    held, peak = json.loads(run.stdout)
    print(f"\n{name}: {held:.1f} copies between steps, {peak:.1f} at the peak of a step")
    assert held <= peak
