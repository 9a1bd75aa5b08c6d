# Makes the calling process the init of a machine of its own, then becomes the program given as arguments.
# Needs: private mount, pid, uts, ipc, cgroup and network namespaces. $DIR is the machine's disk.
set -eu
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
if [ "$CGROUP" = v2 ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while IFS=: read -r _ controllers _; do
    case $controllers in
      "") ;;
      name=*) mkdir "/sys/fs/cgroup/${controllers#name=}"
        mount -t cgroup -o "none,$controllers" cgroup "/sys/fs/cgroup/${controllers#name=}" ;;
      *) mkdir "/sys/fs/cgroup/$controllers"; mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
        case $controllers in *,*) for c in $(echo "$controllers" | tr , ' '); do
          ln -s "$controllers" "/sys/fs/cgroup/$c"; done ;; esac ;;
    esac
  done < /proc/self/cgroup
fi
ip link set lo up
mkdir -p /run/netns "$DIR/log" "$DIR/cni" "$DIR/cni-state" /etc/cni/net.d /var/lib/cni
mount --bind "$DIR/log" /var/log
mount --bind "$DIR/cni" /etc/cni/net.d
mount --bind "$DIR/cni-state" /var/lib/cni
mount --make-rshared /
cat > /etc/cni/net.d/10-test.conflist <<JSON
{"cniVersion": "0.3.1", "name": "test", "plugins": [{"type": "ptp", "ipam": {"type": "host-local",
  "ranges": [[{"subnet": "10.199.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
cat > "$DIR/containerd.toml" <<TOML
version = 2
root = "$DIR/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test.local/busybox:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
TOML
# One image for everything: a sandbox that sleeps, and busybox with its own command.
layer=$DIR/layer
mkdir -p "$layer/bin" "$layer/tmp" "$layer/etc"
cp "$(command -v busybox)" "$layer/bin/busybox"
for applet in sh sleep cat echo true httpd; do ln -sf busybox "$layer/bin/$applet"; done
tar -C "$layer" --numeric-owner --owner=0 --group=0 -cf "$DIR/layer.tar" .
digest=$(sha256sum "$DIR/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/bin/sleep","1000000"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "$digest" > "$DIR/config.json"
printf '[{"Config":"config.json","RepoTags":["test.local/busybox:1"],"Layers":["layer.tar"]}]' > "$DIR/manifest.json"
tar -C "$DIR" -cf "$DIR/image.tar" manifest.json config.json layer.tar
exec "$@"
