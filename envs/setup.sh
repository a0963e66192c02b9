#!/usr/bin/env bash
# Makes .venv from envs/requirements.txt, or renews it if that file has changed; else returns at once. Takes the uv that is
# on the machine, or gets one with pip. Package indexes are whatever pip and uv are set up to use here.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if cmp -s envs/requirements.txt .venv/requirements.txt; then
    exit 0
fi
if [ ! -x .venv/bin/python ]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        found=$("$python" --version 2>/dev/null || echo "not there")
        echo "error: Python 3.11 or newer is needed, $python is $found; name another: make PYTHON=python3.12 ..." >&2
        exit 2
    fi
    echo "setting up .venv"
    "$python" -m venv .venv
fi
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    uv=.venv/bin/uv
fi
"$uv" pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r envs/requirements.txt
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . # the command lethe
cp envs/requirements.txt .venv/requirements.txt.part
mv .venv/requirements.txt.part .venv/requirements.txt # last: an interrupted set-up is done again
