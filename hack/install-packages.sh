#!/bin/sh
# Installs the Debian packages that are missing: `build` (to compile), `run` (for a cluster), `test` (for the tests),
# `clients` (for the JavaScript client), `fuzz` (for libFuzzer), `dist` (for builds after what a run has counted).
set -eu
packages() {
  case $1 in
    build) echo protobuf-compiler libprotobuf-dev gcc libc6-dev ;;
    run) echo containerd runc containernetworking-plugins iptables conntrack iproute2 procps util-linux ;;
    test) echo etcd-server busybox-static python3-venv ;;
    clients) echo nodejs npm ;;
    fuzz) echo g++ ;;
    dist) echo llvm-19 ;;
    *) echo "usage: $0 build|run|test|clients|fuzz|dist..." >&2; exit 2 ;;
  esac
}
missing=
for set in "$@"; do
  for package in $(packages "$set"); do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
  done
done
[ -n "$missing" ] || exit 0
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing
