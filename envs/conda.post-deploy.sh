#!/usr/bin/env bash
# Run by Snakemake in the new environment, from the root of the repository.
set -euo pipefail
python -m pip install --require-hashes -r envs/requirements.txt
