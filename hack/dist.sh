#!/bin/bash
# Builds the API server for who builds once and runs for long: one that counts which way its code goes is put under the load
# of test/bench's `train`, and the compiler lays out code and inlines after that. Two release builds.
#   dist.sh TARGET_DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "$1")
counts=$target/train
# the compiler reads what this version writes
merge=$(command -v llvm-profdata-19) || { echo "$0: llvm-profdata-19 is not installed" >&2; exit 1; }
triple=$(rustc -vV | sed -n 's/^host: //p')

# Both builds are of the same package, profile and target: names of functions depend on them. With a target named, build
# scripts and macros are compiled without the flags.
build() { CARGO_TARGET_DIR=$1 RUSTFLAGS=$2 cargo build --release --target "$triple" -p kube-apiserver; }

rm -rf "$counts"/raw "$counts"/*.profile
build "$counts" "-Cprofile-generate=$counts/raw"
CARGO_TARGET_DIR=$target cargo build -p bench --bin train
"$target/debug/train" "$counts/$triple/release/kube-apiserver"
"$merge" merge -o "$counts/merged" "$counts/raw"
# cargo looks at the name, not at what is in the file
profile=$counts/$(sha256sum "$counts/merged" | cut -c1-16).profile
mv "$counts/merged" "$profile"
build "$target" "-Cprofile-use=$profile"
mkdir -p "$target/dist"
cp "$target/$triple/release/kube-apiserver" "$target/dist/"
echo "built: $target/dist/kube-apiserver"
