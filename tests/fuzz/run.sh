#!/bin/sh
# Builds the core with sanitizers and feeds it mutated requests: tests/fuzz/run.sh [mutations] [seed]
set -eu
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
${CC:-cc} -std=c11 -g -O1 -Wall -Wextra -Werror -Wconversion -fsanitize=address,undefined -fno-sanitize-recover=all \
    -Icsrc csrc/*.c tests/fuzz/fuzz_prepare.c -o "$out/fuzz_prepare"
"$out/fuzz_prepare" -n "${1:-100000}" -s "${2:-1}"
