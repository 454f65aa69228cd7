#!/bin/sh
# Builds the core with sanitizers and feeds it mutated requests, log messages and archives:
# tests/fuzz/run.sh [mutations] [seed]
# Where clang is installed it does the same: it also sees offsets from NULL and conversions that lose bits.
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

check() { # compiler, sanitizers, mutations, seed
    for target in $(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//'); do
        "$1" -std=c11 -g -O1 -Wall -Wextra -Werror -Wconversion -fsanitize="$2" -fno-sanitize-recover=all \
            -Icsrc -Icsrc/frames -Itests/fuzz csrc/*.c $(ls csrc/frames/*.c 2>/dev/null) "tests/fuzz/$target.c" \
            -o "$out/$target"
        "$out/$target" -n "$3" -s "$4"
    done
}

check "${CC:-cc}" address,undefined "${1:-100000}" "${2:-1}"
if command -v clang >/dev/null; then
    check clang address,undefined,implicit-conversion,nullability "${1:-100000}" "${2:-1}"
fi
