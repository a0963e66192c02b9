#!/usr/bin/env bash
# Makes .venv-nudenet from envs/nudenet.txt, or renews it if that file has changed; else returns at once. Run by
# `make nudenet`, after .venv is there: its Python makes it, and its uv is taken if the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."

if cmp -s envs/nudenet.txt .venv-nudenet/nudenet.txt; then
    exit 0
fi
echo "setting up .venv-nudenet"
rm -rf .venv-nudenet
.venv/bin/python -m venv --without-pip .venv-nudenet
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    uv=.venv/bin/uv
fi
"$uv" pip install --quiet --python .venv-nudenet/bin/python --require-hashes --compile-bytecode -r envs/nudenet.txt
cp envs/nudenet.txt .venv-nudenet/nudenet.txt.part
mv .venv-nudenet/nudenet.txt.part .venv-nudenet/nudenet.txt # last: an interrupted set-up is done again
