"""What to do about a failed workflow, told from the words of SLURM and of Snakemake in its log."""

# words in the log -> what to do
KNOWN = {
    ("exceeded memory limit", "oom_kill", "OUT_OF_ME"): (
        "a job needed more memory than it had asked for: raise mem_mb of its rule under set-resources in the profile"
    ),
    ("SLURM status is: 'TIMEOUT'", "DUE TO TIME LIMIT"): (
        "a job ran into its time limit; it goes on from its saved state when you run the same command again; raise "
        "runtime (minutes) of its rule under set-resources in the profile if that is too often"
    ),
    ("Invalid partition name", "invalid partition specified"): (
        "the cluster has no such partition: `sinfo -s` lists them; set slurm_partition in envs/slurm/config.yaml"
    ),
    ("Requested node configuration is not available", "requested node configuration", "Invalid generic resource"): (
        "no node has what a job asks for: compare gpu, mem_mb and threads of its rule with `sinfo -o '%P %c %m %G'`"
    ),
    ("Invalid account", "invalid account"): (
        "the cluster knows no such account: `sacctmgr show assoc user=$USER` lists yours; set slurm_account"
    ),
    (
        "Unable to contact slurm controller",
        "_establish_config_source",
        "sbatch: command not found",
        "directory: 'sbatch'",
        "directory: 'sacct'",
    ): ("no SLURM answers here: run this on a node from which sbatch works, or without --workflow-profile envs/slurm"),
}


def advice(log: str) -> list[str]:
    """A line for each known trouble that a workflow's log tells of."""
    return [what for words, what in KNOWN.items() if any(word in log for word in words)]
