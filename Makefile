# make tables     the default experiment, from set-up to reports/atelier/; EXPERIMENT=params/own.yaml makes another
# make demo       a prompt to be forgotten and one to be kept, drawn by the main arms on one sheet; no training
# make status     which arms of EXPERIMENT are done, running, failed or waiting, and what is stale
# make test       all tests, on the CPU and without a network
# make check      the inner loop: make lint and the tests of formulas, files and options
# make soak       KILLS kills at random moments in all stages (default: 200; SEED chooses the moments), each followed by a rerun
# make bench      speed and memory on this machine, into reports/bench/; BENCH="--seconds 300" says how
# make gpu        one call on a GPU: tests marked gpu, a real chain of stages, make bench; results go to OUT
# make lint       style of code and rules, Snakemake's own lint, the contract of rooms, types
# make docs       the pages of docs/, into docs/_build/html; a warning is an error
# make gc         deletes results that EXPERIMENT (one or more params files) does not want; DRY_RUN=1 only lists them
# make nudenet    .venv-nudenet, for score.judges.unsafe: nudenet
# make emoji      .venv-emoji, the emoji pictures compared with their packages, and the judges' ImageNet weights
# make lock       resolves envs/requirements.in, envs/nudenet.in and envs/emoji.in anew
# Each sets up .venv by itself, when it is missing or envs/requirements.txt has changed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: tables demo status test check soak bench gpu lint docs gc nudenet emoji lock setup

PYTHON ?= python3
EXPERIMENT ?= params.yaml
CORES ?= all
DRY_RUN ?=
WORKERS ?= 2
CORE := $(addprefix tests/,files params texts stage training measuring)
KILLS ?= 200
SEED ?= 0
BENCH ?=
OUT ?= reports/bench
export PATH := $(CURDIR)/.venv/bin:$(PATH)

tables: setup
	@python -m lethe.experiment.tables $(EXPERIMENT) --cores $(CORES)

demo: setup
	@python -m lethe.report.demo $(EXPERIMENT)

status: setup
	@python -m lethe.experiment.status $(EXPERIMENT)

test: setup
	@python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: lint
	@python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(CORE)

soak: setup
	@LETHE_KILLS=$(KILLS) LETHE_SEED=$(SEED) python -m pytest -s tests/faults/test_kills.py

bench: setup
	@python -m stages.bench $(BENCH)

gpu: setup
	@PATH=$(CURDIR)/.venv/bin:$$PATH bash envs/gpu.sh $(OUT)

lint: setup
	@ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	lint-imports --no-cache
	mypy lethe stages

docs: setup
	@PYTHONPATH=. python docs/fill.py
	python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html
	echo "$(CURDIR)/docs/_build/html/index.html"

gc: setup
	@python -m lethe.experiment.collect $(EXPERIMENT) $(if $(DRY_RUN),--dry-run)

nudenet: setup
	@bash envs/nudenet.sh

emoji: setup
	@bash envs/emoji.sh
	.venv-emoji/bin/python -m lethe.emoji.render --packages data/emoji --check
	python -m lethe.pretraining.trunk .venv-emoji

lock: setup
	@for name in requirements nudenet emoji; do
	    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	        envs/$$name.in -o envs/$$name.txt
	done

setup:
	@PYTHON=$(PYTHON) bash envs/setup.sh
