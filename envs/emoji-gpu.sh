#!/usr/bin/env bash
# The emoji base, made on a GPU in one call. What is finished comes back though time runs out. Needs python3 with torch and
# what lethe imports, no .venv, and the judges' ImageNet weights, which `make emoji` writes into data/.
#
#   bash envs/emoji-gpu.sh OUT [SECONDS [OPTIONS...]]    OUT gets pipeline.tar, judges.tar, rest.tar (card, sheets) and a
#                                                        log, or else the parts; SECONDS in all (default 540); OPTIONS are
#                                                        those of stages.pretrain, such as --contents 150
set -uo pipefail
out=${1:?folder for results} total=${2:-540}
mkdir -p "$out"
out=$(cd "$out" && pwd)
shift $(($# > 2 ? 2 : $#))
cd "$(dirname "$0")/.."
work=${WORK:-$(mktemp -d)} # named, a second call goes on with what is there
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec > >(tee "$out/log.txt") 2>&1

# attempt RESERVE OPTIONS...: RESERVE seconds are for export and measuring, the others that are left for training
attempt() {
    local left=$((total - SECONDS)) reserve=$1
    shift
    timeout --signal=TERM --kill-after=10 $((left - 10)) python3 -m stages.pretrain \
        --imagefolder lethe/emoji/pictures.tar --contents 200 --out "$work/bundle" --state "$work/state" \
        --threads 8 --seconds $((left - reserve)) "$@"
}
nvidia-smi -L
attempt 60 "$@" || { [ $((total - SECONDS)) -gt 90 ] && attempt 40 --no-graphs "$@"; }
for made in "$work/bundle" "$work/bundle.part"; do
    [ -f "$made/judges/style/config.json" ] || continue
    for part in pipeline judges; do tar cf "$out/$part.tar" -C "$made" "$part"; done
    tar cf "$out/rest.tar" -C "$made" --exclude=./pipeline --exclude=./judges .
    break
done
[ -f "$out/rest.tar" ] || tar cf - -C "$work/state" . | split --bytes 15M --numeric-suffixes - "$out/state.tar."
echo "done after $SECONDS s: $(ls "$out" | tr '\n' ' ')"
