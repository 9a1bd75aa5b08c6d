#!/bin/bash
# Fuzzes the targets of test/fuzz one after the other and fails when one of them has found something.
#   CARGO_FUZZ=PATH fuzz.sh TIME TARGET...   (TIME: seconds, or with a unit: 90s, 3m, 1h)
set -euo pipefail
case $1 in
  *h) seconds=$((${1%h} * 3600)) ;;
  *m) seconds=$((${1%m} * 60)) ;;
  *) seconds=${1%s} ;;
esac
shift
cd "$(dirname "$0")/../test/fuzz"
# the sanitizers look for what safe code cannot do, and halve the speed
fuzz() { RUSTC_BOOTSTRAP=1 "$CARGO_FUZZ" "$1" --sanitizer "${FUZZ_SANITIZER:-none}" "${@:2}"; }
cargo run --quiet -p fuzz --bin seeds -- fuzz/corpus
fuzz build
failed=()
for target in "$@"; do
  # memory for a whole server in some targets; a hang is what takes longer than any request may
  fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len=16384 -print_final_stats=1 ||
    failed+=("$target")
done
[ ${#failed[@]} = 0 ] || { echo "found something: ${failed[*]}; see test/fuzz/fuzz/artifacts" >&2; exit 1; }
