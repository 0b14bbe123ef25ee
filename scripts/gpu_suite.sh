#!/usr/bin/env bash
# What an NVIDIA GPU tells about the CUDA backend in seven minutes: does it start, are its numbers right, do they repeat, how fast is it
# beside PyTorch. Needs a driver, CUDA's headers and NVRTC (a toolkit or pip's), and python3 with torch, transformers and peft; no Rust, no
# network.
#
#     bash scripts/gpu_pack.sh       # where Rust is; then copy the checkout with .gpu/
#     bash .gpu/gpu_suite.sh         # in that copy
#
# DRY=1 gives every step 20 seconds at most: whether the flow holds, on a driver that does nothing (tests/cuda_stub).
# BUDGET is the time for all in seconds, OUT the folder for logs, MODULES which tests run. Steps are cut off at limits of their own, and one that fails stops no other.
# What failed, and a table of all steps, come last.
# shellcheck disable=SC2317 # steps are functions, run by name
set -u
ROOT=$PWD
WORK=$(mktemp -d "${TMPDIR:-/tmp}/diffmas-gpu.XXXXXX")
OUT=${OUT:-$WORK/out}
BUDGET=$((SECONDS + ${BUDGET:-420}))
DRY=${DRY:-0}
mkdir -p "$OUT" "$WORK"/{bin,rows,logs,run}
tar -C "$WORK/bin" -xJf .gpu/programs.tar.xz 2>/dev/null ||
    python3 -c 'import sys, tarfile; tarfile.open(".gpu/programs.tar.xz").extractall(sys.argv[1])' "$WORK/bin" || exit 1

# Tests find their fixtures at the path where they were built.
built_at=$(<.gpu/built_at)
[ -e "$built_at" ] || { mkdir -p "$(dirname "$built_at")" && ln -s "$ROOT" "$built_at"; }

# Kernels that are compiled are kept in a cache that is empty at first, which all processes share.
export DIFFMAS_CACHE=$WORK/cache
export ROOT WORK NO_COLOR=1 PYTHONUNBUFFERED=1

# Recipes name files by paths in the checkout.
cd "$WORK/run" || exit 1
ln -s "$ROOT/tests" "$ROOT/runs" .

# What steps run. The last line that begins with "= " becomes the note in the table.
ours() { "$WORK/bin/$1" "${@:2}"; }
peer() { python3 "$ROOT/.gpu/gpu_peer.py" "$@"; }
environment() {
    nvidia-smi
    ldd "$WORK/bin/diffmas"
    nproc
    python3 -c 'import torch, transformers, peft
print("= torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__, torch.cuda.get_device_name())'
}
devices() {
    ours diffmas devices --verbose | sed 's/^cuda */= /' | tee devices
    ! grep '^= .*not usable' devices
}
smoke() {
    ours diffmas train --config runs/smoke.toml --backend cuda --overwrite --output "$1" | tee "$1.txt" || return
    echo "= $(grep 'updates in' "$1.txt"), $(find "$DIFFMAS_CACHE/kernels" -name 'toc*' -exec cat {} + | wc -l) kernels kept"
}
suite() {
    # The slopes of all tensors are thousands of short passes, minutes of launches; sums over rows tell of the same gradients. Timings of tests
    # that run beside others tell nothing.
    DIFFMAS_TEST_BACKEND=cuda ours suite "$1::" --test-threads 1 --nocapture --skip batches::every_tensor --skip training::the_first_step 2>&1 |
        sed -u 's/^test result: /= /'
}
train() {
    ours diffmas train --model tests/fixtures/golden/tiny-qwen3/model --data tests/fixtures/smoke/train.jsonl --latent-steps 3 \
        --batch-size 2 --max-steps 20 --learning-rate 1e-2 --save-steps 100 --overwrite --quiet --backend "$1" --output "$2"
}
curve() {
    train flex flex && train cuda cuda && train cuda again && python3 "$ROOT/.gpu/gpu_curve.py" cuda again flex
}
models() {
    peer make smollm2 135M && peer make qwen3-0.6b 600M
}
# The bench's line of JSON without what all have in common; until it comes, the micro-batches that are done.
bench() {
    ours smollm2 "$@" --runs 1 --backend cuda 2>&1 | sed -uE '
        s/^micro-batch/= &/
        /^\{/ { s/"(bench|channel|topology|runs|T|batch)":[^,]*,//g; s/[{}"]//g; s/(\.[0-9]{3})[0-9]+/\1/g; s/^/= / }'
}
demo() {
    ours diffmas demo --backend cuda --max-steps 20 --questions 64 --output demo --overwrite && echo '= ran'
}
# Another process holds all memory but what the program's context and half of its weights need: the program must fail with a sentence.
full() {
    coproc HELD { python3 -c 'import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - (800 << 20), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()'; }
    read -r _ <&"${HELD[0]}" || return
    ours diffmas run --model 135M --data tests/fixtures/smoke/train.jsonl --greedy --max-new-tokens 4 --backend cuda >full.txt 2>&1
    local status=$?
    eval "exec ${HELD[1]}>&-"
    wait "$HELD_PID"
    cat full.txt
    echo "= exit $status: $(grep -c panicked full.txt) panics, $(tail -1 full.txt | cut -c1-90)"
    [ "$status" -ne 0 ] && ! grep -q panicked full.txt
}
export -f ours peer environment devices smoke suite train curve models bench demo full

nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader,nounits -lms 250 >"$OUT/gpu.csv" 2>/dev/null &
monitor=$!
steps=0
# start NAME LIMIT COMMAND...: runs one of the above beside others, for at most LIMIT seconds.
start() {
    steps=$((steps + 1))
    measure "$(printf %02d "$steps")-${1// /-}" "$@" &
}
# The same, alone.
step() {
    start "$@"
    wait $!
}
measure() {
    local id=$1 name=$2 limit=$((DRY ? 20 : $3)) left=$((BUDGET - SECONDS)) from=$EPOCHREALTIME status note
    if [ "$left" -lt 10 ]; then
        printf '%s\tskipped\t0\t0\t\n' "$name" >"$WORK/rows/$id"
        return 1
    fi
    # shellcheck disable=SC2016 # for the shell that timeout can run; ours knows the functions
    timeout -k 5 "$((limit < left ? limit : left))" bash -o pipefail -c '"$@"' - "${@:4}" >"$WORK/logs/$id.log" 2>&1
    status=$?
    note=$(grep -a '^= ' "$WORK/logs/$id.log" | tail -1 | cut -c3-)
    printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$status" "$from" "$EPOCHREALTIME" "$note" >"$WORK/rows/$id"
    printf '%4d s  %s: %s\n' "$SECONDS" "$name" "$status"
    return "$status"
}
read -ra modules <<<"${MODULES:-operations golden gradients batches channels references properties training}"
finish() {
    kill "$monitor" 2>/dev/null
    # A kernel that does not compile is logged with its source.
    for log in "$WORK"/logs/*.log; do
        echo "== ${log##*/}"
        head -c 600000 "$log"
    done >"$OUT/log.txt"
    python3 "$ROOT/.gpu/gpu_report.py" "$WORK/rows" "$OUT/gpu.csv" "$WORK/logs" "${modules[@]}" | tee "$OUT/report.txt"
    exit
}

echo "diffmas $(<"$ROOT/.gpu/commit") on $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader)"
echo "driver: $(nvidia-smi | grep -o 'CUDA Version: [0-9.]*'); nvcc: $(nvcc --version 2>/dev/null | grep -o 'release [0-9.]*')"

step env 30 environment
step devices 30 devices || finish
# Does it start: kernels are compiled in the first run, and read in the second.
step smoke-cold 90 smoke cold
step smoke-warm 45 smoke warm

# Are the numbers right, and do they repeat: most of it compiles and launches on the host, so side by side. The weights for what follows are
# made meanwhile.
beside=()
for module in "${modules[@]}"; do
    start "$module" 150 suite "$module"
    beside+=($!)
done
start curve 130 curve
beside+=($!)
start models 90 models
wait "${beside[@]}" $!

# How fast: each alone.
step 'ours 135M b1' 75 bench train 135M --latent-steps 10 --batch 1 --updates 0
step 'ours 135M b16' 75 bench train 135M --latent-steps 10 --batch 16 --updates 0
step demo 75 demo
step 'full memory' 40 full
step 'torch 135M b1' 80 peer time 135M train:10:1 --dtypes f32 bf16 --runs 1
step 'torch 135M b16' 50 peer time 135M train:10:16 --dtypes f32 --runs 1
step 'ours infer' 45 bench infer 135M
step 'torch infer' 40 peer time 135M infer --dtypes f32 bf16 --runs 3
step 'ours 600M b1' 75 bench train 600M --latent-steps 10 --batch 1 --updates 0
step 'torch 600M' 50 peer time 600M train:10:1 --dtypes f32 --runs 1
finish
