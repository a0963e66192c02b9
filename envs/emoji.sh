#!/usr/bin/env bash
# Makes .venv-emoji from envs/emoji.txt, or renews it if that file has changed; else returns at once. Run by
# `make emoji`, after .venv is there: its Python makes it, and its uv is taken if the machine has none.
set -euo pipefail
cd "$(dirname "$0")/.."

if cmp -s envs/emoji.txt .venv-emoji/emoji.txt; then
    exit 0
fi
echo "setting up .venv-emoji"
rm -rf .venv-emoji
.venv/bin/python -m venv --without-pip .venv-emoji
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
    uv=.venv/bin/uv
fi
"$uv" pip install --quiet --python .venv-emoji/bin/python --require-hashes --compile-bytecode -r envs/emoji.txt
cp envs/emoji.txt .venv-emoji/emoji.txt.part
mv .venv-emoji/emoji.txt.part .venv-emoji/emoji.txt # last: an interrupted set-up is done again
