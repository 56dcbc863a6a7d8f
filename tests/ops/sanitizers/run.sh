#!/usr/bin/env bash
# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer:
#
#     bash tests/ops/sanitizers/run.sh
#
# Builds driver.cpp and every kernel with both, without PyTorch, and runs them on all layouts,
# types and instruction sets of this machine. Takes some minutes; needs g++ or clang++.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sources=$here/../../../src/sgekit/ops/csrc
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined
       -fno-sanitize-recover=all -fno-math-errno -DSGEKIT_CALLS -I$sources -w ${CXXFLAGS:-}"
cxx=${CXX:-c++}
sets=(baseline)
if [ "$(uname -m)" = x86_64 ]; then
    sets+=(avx2 avx512)
    flags+=" -DSGEKIT_X86"
fi
declare -A options=([baseline]="" [avx2]="-mavx2 -mfma -mf16c"
    [avx512]="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl")
for set in "${sets[@]}"; do
    # shellcheck disable=SC2086
    $cxx $flags ${options[$set]} -DSGEKIT_TABLE=sgekit_"$set" \
        -c "$sources/kernels.cpp" -o "$out/$set.o" &
done
# shellcheck disable=SC2086
$cxx $flags -c "$sources/dispatch.cpp" -o "$out/dispatch.o"
# shellcheck disable=SC2086
$cxx $flags -c "$here/driver.cpp" -o "$out/driver.o"
wait
# shellcheck disable=SC2086
$cxx $flags "$out"/*.o -lgomp -o "$out/driver"
# OpenMP's threads keep their stacks until the end.
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$out/driver"
