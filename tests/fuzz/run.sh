#!/bin/sh
# Builds the core with sanitizers and feeds it mutated requests, log messages and archives:
# tests/fuzz/run.sh [mutations] [seed]
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for target in $(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//'); do
    ${CC:-cc} -std=c11 -g -O1 -Wall -Wextra -Werror -Wconversion -fsanitize=address,undefined \
        -fno-sanitize-recover=all -Icsrc -Icsrc/frames -Itests/fuzz csrc/*.c $(ls csrc/frames/*.c 2>/dev/null) "tests/fuzz/$target.c" -o "$out/$target"
    "$out/$target" -n "${1:-100000}" -s "${2:-1}"
done
