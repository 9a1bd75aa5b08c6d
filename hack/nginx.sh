#!/bin/sh
# Unpacks Debian's nginx into a directory, without installing it (that would start it), and prints the directory.
#   nginx.sh DIRECTORY
set -eu
directory=$1/nginx
if [ ! -x "$directory/usr/sbin/nginx" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chown _apt "$work" # apt fetches as a user of its own
  packages="nginx nginx-common libpcre2-8-0 libssl3 zlib1g libcrypt1"
  fetch() { (cd "$work" && apt-get download -qq $packages >&2); }
  fetch || { apt-get update -qq >&2 && fetch; }
  mkdir -p "$directory"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$directory"; done
fi
echo "$directory"
