#!/usr/bin/env bash
# One call on a GPU: tests marked gpu, a real chain of stages in float32 and bfloat16, and make bench. What finished
# counts though something else fails. Needs python3 with torch and what lethe imports, and no .venv.
#
#   bash envs/gpu.sh OUT [SECONDS]    results go to the folder OUT, four files; SECONDS in all (default 400)
#
# A machine with torch, torchvision, transformers, timm, safetensors, pandas and pillow lacks these; as wheels they are 9 MB:
# diffusers, open_clip_torch, torch_pruning, clean_fid, ftfy, wcwidth, jsonschema, jsonschema_specifications, referencing,
# rpds_py, attrs, importlib_metadata, in the versions of envs/requirements.txt.
#
# Two rows of the bench take minutes to compile. They are compiled beside tests and chain, whose times they therefore
# lengthen; the bench itself has the machine to itself.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?folder for results} total=${2:-400}
mkdir -p "$out"
work=$(mktemp -d)
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TORCHINDUCTOR_CACHE_DIR=$work/inductor
exec > >(tee "$out/gpu.log") 2>&1

say() { echo "[$SECONDS s] $*"; }
left() { echo $(($1 - SECONDS > 30 ? $1 - SECONDS : 30)); } # seconds until then, and some in any case
# part NAME LIMIT COMMAND...: its output in a file of its own, shown when it has ended
part() {
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    timeout --signal=TERM --kill-after=10 "$limit" "$@" >"$work/$name" 2>&1
    local code=$?
    say "$name: exit $code after $((SECONDS - began)) s"
    tail -n 60 "$work/$name" | cut -c -400 | sed 's/^/    /'
}

nvidia-smi 2>&1 | head -n 20
warm=$((total * 2 / 5))
rows=(distill/all sample/all) pids=()
for row in "${rows[@]}"; do
    part "compile-${row//\//-}" "$warm" python3 -m stages.bench --rows "$row" --out "$work/out-${row//\//-}" ${SIZE:+--size "$SIZE"} &
    pids+=($!)
done
part paint 60 python3 -m lethe.atelier.splits --out data/atelier --world 1 --lists 2 --workers 4 &
paint=$!
part tests "$warm" python3 -m pytest tests/whole/test_cuda.py -n 0 -p no:cacheprovider
wait $paint
chain=(--out "$out/chain.json" --steps "${STEPS:-200}" --seconds "$(left $warm)")
part chain "$(left $((warm + 20)))" python3 -m lethe.bench.chain "${chain[@]}"
wait "${pids[@]}" # by name: a bare wait would wait for tee, which waits for us
part bench "$(left $total)" python3 -m stages.bench --out "$out" --seconds "$(left $((total - 10)))" ${SIZE:+--size "$SIZE"}
rm -rf "$work"
say "done: $(ls "$out" | tr '\n' ' ')"
