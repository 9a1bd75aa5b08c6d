#!/bin/sh
# Unpacks a newer etcd than this Debian release has, from the next release's package, and prints the directory it is in.
#   etcd-next.sh TOOLS
set -eu
suite=trixie
dir=$1/etcd-$suite
if [ ! -x "$dir/usr/bin/etcd" ]; then
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  archive=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' |
    awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ { print $3; exit }')
  [ -n "$archive" ] || { echo "$0: apt knows no archive of Debian" >&2; exit 1; }
  # apt's own files stay as they are
  rm -rf "$dir" && mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial"
  echo "deb [signed-by=$keys] $archive $suite main" > "$dir/apt/sources.list"
  apt() {
    apt-get -qq -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt" \
      -o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=root "$@" >&2
  }
  apt update
  (cd "$dir/apt" && apt download etcd-server)
  dpkg-deb -x "$dir"/apt/etcd-server_*.deb "$dir"
  rm -r "$dir/apt"
fi
echo "$dir/usr/bin"
