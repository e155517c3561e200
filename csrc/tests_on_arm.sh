#!/usr/bin/env bash
# Compiles the C++ tests for 64-bit ARM and runs them under emulation.
# On Debian it needs the packages g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."

for program in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$program" >/dev/null || {
    echo "$program is missing (Debian: g++-aarch64-linux-gnu, qemu-user)" >&2
    exit 1
  }
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

compile() { aarch64-linux-gnu-g++ -std=c++17 -O3 -ffp-contract=off -Wall -Wextra -Werror -I. -c "$1" -o "$2"; }
export -f compile
for source in csrc/*.cc; do
  echo "$source" "$out/$(basename "$source" .cc).o"
done | xargs -P "$(nproc)" -n 2 bash -c 'compile "$0" "$1"'

failed=0
for test in "$out"/*_test.o; do
  program=${test%.o}
  aarch64-linux-gnu-g++ -static -pthread -o "$program" "$test" $(ls "$out"/*.o | grep -v _test.o)
  if qemu-aarch64 -cpu max "$program"; then
    echo "$(basename "$program"): passed"
  else
    echo "$(basename "$program"): FAILED"
    failed=1
  fi
done
exit "$failed"
