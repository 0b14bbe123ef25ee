#!/usr/bin/env bash
# Packs into .gpu/ what gpu_suite.sh needs on a machine with a GPU and without Rust: the program, the tests `suite` and the bench `smollm2`,
# built for CUDA and stripped, and the scripts. They run beside a copy of this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .gpu

programs=$(mktemp -d)
trap 'rm -r "$programs"' EXIT
cargo build --release --no-default-features --features "${FEATURES:-cli,cuda,flex}" "$@" --bin diffmas --test suite --bench smollm2 \
    --message-format json-render-diagnostics |
    python3 -c '
import json, sys
for message in map(json.loads, sys.stdin):
    if message["reason"] == "compiler-artifact" and message["executable"]:
        print(message["target"]["name"], message["executable"])' |
    while read -r name path; do
        strip -o "$programs/$name" "$path"
    done
# Most of the three is the same code: a window of 64 MiB finds it.
tar -C "$programs" -c diffmas suite smollm2 | xz ${XZ_OPT:--9} >.gpu/programs.tar.xz

# Tests know their fixtures by the path at which they were built.
pwd >.gpu/built_at
git describe --always --dirty >.gpu/commit
cp scripts/gpu_*.sh scripts/gpu_*.py .gpu/
du -sh .gpu
