#!/bin/bash
# Builds programs for who builds once and runs for long: an API server that counts which way its code goes is put under the
# load of test/bench's `train`, and the compiler lays out code and inlines after that. Two release builds.
#   dist.sh TARGET_DIRECTORY PACKAGE...   (kube-apiserver is one of them)
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "$1")
shift
counts=$target/train
# the compiler reads what this version writes
merge=$(command -v llvm-profdata-19) || { echo "$0: llvm-profdata-19 is not installed" >&2; exit 1; }
triple=$(rustc -vV | sed -n 's/^host: //p')

# Both builds are of the same packages, profile and target: names of functions depend on them. With a target named, build
# scripts and macros are compiled without the flags.
packages=("${@/#/--package=}")
build() { CARGO_TARGET_DIR=$1 RUSTFLAGS=$2 cargo build --release --target "$triple" "${packages[@]}"; }

rm -rf "$counts/raw"
build "$counts" "-Cprofile-generate=$counts/raw"
CARGO_TARGET_DIR=$target cargo build -p bench --bin train
"$target/debug/train" "$counts/$triple/release/kube-apiserver"
"$merge" merge -o "$counts/profile" "$counts/raw"
# cargo looks at the name, not at what is in the file
profile=$counts/$(sha256sum "$counts/profile" | cut -c1-16).profile
mv "$counts/profile" "$profile"
build "$target" "-Cprofile-use=$profile"
mkdir -p "$target/dist"
cp "${@/#/$target/$triple/release/}" "$target/dist/"
echo "built in $target/dist: $*"
