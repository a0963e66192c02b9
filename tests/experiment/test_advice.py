import pytest

from lethe.experiment.advice import KNOWN, advice

LOGS = {
    "slurmstepd-vm: error: StepId=12.0 exceeded memory limit (532738048 > 209715200), being killed": "mem_mb",
    "message: SLURM-job '6' failed, SLURM status is: 'TIMEOUT'.": "goes on from its saved state",
    "sbatch: error: invalid partition specified: gpus": "slurm_partition",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available": "no node has",
    "srun: error: Unable to create step for job 1: Invalid generic resource (gres) specification": "no node has",
    "sbatch: error: Unable to contact slurm controller (connect failure)": "no SLURM answers",
    "sbatch: error: _establish_config_source: failed to fetch config": "no SLURM answers",
    "Job submission failed with exception: [Errno 2] No such file or directory: 'sacct'": "no SLURM answers",
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination": "slurm_account",
}


@pytest.mark.parametrize(("line", "words"), LOGS.items())
def test_known_troubles_have_their_advice(line, words):
    (told,) = advice(f"Error in rule distill:\n{line}\nExiting")
    assert words in told


def test_several_and_none():
    assert advice("error: step 2: the loss is not finite") == []
    assert len(advice("\n".join(LOGS))) == len(set(LOGS.values())) == len(KNOWN)
