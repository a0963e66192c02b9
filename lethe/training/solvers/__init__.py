"""Bilevel solvers: minimise L_CU over the minimisers of L_ft (arXiv 2412.15341).

A solver is a module with one function, `solve(student, lower, upper, options)`, and OPTIONS, the schema of its own
options. VERSION, 1 if there is none, is raised when its results change under the same options: above 1 it is part of
their address. `lower` and `upper` are losses (`finetune.Loss`): called with any model and a number they return the
level's loss on the batch of that number, so a solver may keep copies of the student and compare them on equal draws.
`options` holds the sections `distill` and `bilevel`, the solver's own keys among them. The answer is a `loop.Training`:
one step, counted as a lower step, and every module and optimizer that steps change; the module "student" is the result.

Steps are counted alike in all of them: `distill.steps` lower batches are drawn. What a step costs differs, so results
are compared by the counted passes (`passes` in log.csv), not by steps. All log, where defined:

- `gap`: L_ft(theta) - L_ft(vartheta) on one batch, where a solver has a second copy of the weights;
- `cosine`: of the angle between the gradients of the two levels;
- `displacement`: how far an upper step moves the weights, over how far the lower step before it did.

What `steps` lower batches cost, where F is a teacher's forward pass of a batch, S a student's forward and backward
pass, and f, s the same for an upper batch (2f are negative guidance's; other suppressions ask for less):

| solver | cost | copies of weights and AdamW's moments | peak |
|---|---|---|---|
| alternate | steps (F + S) + steps / upper_every (2f + s) | 1, and 4 moments | 9.3 |
| penalty | steps (F + S) + steps / inner_steps (S + 2 forwards + 2f + s) | 2, and 4; `second_copy` parks half | 12.2 |
| weighted_sum | steps (F + S + 2f + s) | 1, and 2 moments | 8.3 |

`peak` is the memory of a step with both levels in copies of the weights, activations and the teacher apart: weights,
moments, gradients, and what the gauges of the log compare. Fine-tuning alone takes 4.3. Measured on a CPU with 52
million weights: `python -m pytest -s tests/training/solvers/memory.py`.

Ours is no solver of its own: `alternate` at every step with few pictures and a small rate, towards `redirect`. To take
out of its upper steps the part that climbs L_ft's mean gradient (PCGrad, arXiv 2001.06782) won nothing on held-back
prompts (FID 4.32 with and without it, every concept gone), so it is not here. Towards `redirect` the plain
`weighted_sum` does as well (params/seeds.yaml, table schedules): it is the target that keeps what is drawn, not the
solver.
"""
