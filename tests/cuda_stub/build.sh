#!/usr/bin/env bash
# Builds the CUDA driver and compiler that do nothing (driver.c) into DIR, which then looks like a toolkit: build.sh DIR, and for programs
# CUDA_PATH=DIR LD_LIBRARY_PATH=DIR/lib64.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{lib64,include/crt}
touch "$1"/include/{cuda_runtime.h,cuda_fp16.h,mma.h,crt/mma.h}
flags=(-std=c11 -O2 -Wall -shared -fPIC)
"${CC:-cc}" "${flags[@]}" -Wl,-soname,libcuda.so -o "$1/lib64/libcuda.so" "$here/driver.c"
"${CC:-cc}" "${flags[@]}" -Wl,-soname,libnvrtc.so -o "$1/lib64/libnvrtc.so" "$here/nvrtc.c"
