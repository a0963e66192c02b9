# The plan, and the functions that rules take their inputs and values from.
import os
import shlex
import shutil
import sys

from lethe.experiment import absent
from lethe.params import inheritance, options
from lethe.experiment.advice import advice
from lethe.stage.cli import flags, of_disk
from lethe.files.errors import UserError
from lethe.experiment.graph import arguments, made_marker
from lethe.files.io import check_place
from lethe.experiment.plan import build
from lethe.experiment.tables import prefer_own_python


report: "../reports/captions/workflow.rst"


prefer_own_python()


def get_params_file():
    """params.yaml, or the file named by --config params=FILE or --configfile FILE. There is no `configfile:` here: it
    would mix the keys of both files."""
    files = [os.path.relpath(file) for file in workflow.configfiles]
    files += [str(config["params"])] if "params" in config else []
    if len(files) > 1:
        raise UserError(f"an experiment is one params file, found {', '.join(files)}")
    return files[0] if files else "params.yaml"


def get_params(file):
    """Its values, checked. A value given as --config would be in no file, so it is refused."""
    values = options.load(file)
    if config not in ({}, {"params": file}, inheritance.parse(file)):
        raise UserError(
            f"--config: only params=FILE is known; values live in that file: change {file} or a copy of it"
        )
    return values


try:
    PARAMS_FILE = get_params_file()
    PARAMS = get_params(PARAMS_FILE)
    PLAN = build(PARAMS)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

if workflow.is_main_process:
    for line in absent.warnings(PLAN.lacking):
        print(line, file=sys.stderr)

RESULTS = {node.folder.name: node for node in PLAN.nodes.values()}


def check_places():
    """Ends the run where it could not write in the end. Snakemake itself meets such a place with a traceback."""
    try:
        for name in ["logs", "benchmarks", "results", "reports"]:
            check_place(os.path.join(name, PARAMS["experiment"], "x"))
    except OSError as error:
        print(f"error: {of_disk(error)}", file=sys.stderr)
        sys.exit(3)


onstart:
    check_places()


wildcard_constraints:
    experiment=PARAMS["experiment"],


def one_of(stage, field=None):
    """Constraint: only results (or arms) of a stage that the plan knows. Matches nothing if there are none."""
    nodes = [node for node in RESULTS.values() if node.stage == stage]
    return (
        "|".join(
            sorted(
                {getattr(node, field) if field else node.folder.name for node in nodes}
            )
        )
        or "(?!)"
    )


def get_missing(files, target):
    """What a target still needs. Once it exists it needs nothing: its address says what it was made from, and a parent
    that was not fetched or was deleted is not made again for its sake."""
    return [
        file for file in files if not os.path.exists(target) or os.path.exists(file)
    ]


def get_metas(*kinds):
    """Files that say all results of some kinds are finished."""
    return [node.meta for node in PLAN.of_kind(*kinds)]


def get_parents(wildcards):
    """What must be finished first: the parents, and the pictures if a command makes them."""
    node = RESULTS[wildcards.result]
    made = [made_marker(PARAMS)] if node.pictures and PARAMS["pictures"]["make"] else []
    return get_missing([parent.meta for parent in node.made_from] + made, node.meta)


# Outputs are `update`d: Snakemake would delete a result that another job has finished while this one waited its turn.
# Rules `exec` their stage, so that no shell stands between it and SIGTERM: a shell would end at once, and with it the
# job, before the stage has saved its state.


def get_gpus(wildcards):
    """GPUs of a job that trains or draws: one on a cluster, and here if there is any. Without one, cores alone decide how
    many jobs run at once."""
    return int(not workflow.local_exec or shutil.which("nvidia-smi") is not None)


def get_arguments(wildcards):
    """The values of a result, as flags of its stage."""
    return shlex.join(arguments(RESULTS[wildcards.result]))


def say_advice(logs):
    """What to do, where the logs of a failed workflow tell it."""
    for file in logs:
        with open(file, encoding="utf-8", errors="replace") as text:
            for line in advice(text.read()):
                print(f"advice: {line}", file=sys.stderr)
