#!/bin/sh
# Prints the path of cargo-fuzz, installing it from crates.io into a directory when needed.
#   cargo-fuzz.sh DIRECTORY
set -eu
version=0.13.2 directory=$1/cargo-fuzz-$version
if [ ! -x "$directory/bin/cargo-fuzz" ]; then
  cargo install --quiet --locked --root "$directory" "cargo-fuzz@$version" >&2
fi
echo "$directory/bin/cargo-fuzz"
