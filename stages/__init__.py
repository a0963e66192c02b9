"""One thin script per step; `python -m stages.NAME --help`. No stage imports another stage."""
