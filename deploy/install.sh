#!/bin/sh
# Installs one distribution of the workspace into a virtual environment, as the images have it.
#
#   deploy/install.sh dependencies gateway|worker VENV    what it needs from the package index, and nothing else
#   deploy/install.sh packages     gateway|worker VENV    `shared` and the distribution itself, as wheels
#
# Two steps, so that a change of our source does not invalidate the layer of the dependencies. The first one reads
# only requirements.lock and the two manifests. Called by the Dockerfiles and by tests/deploy/test_images.py.
set -eu

usage() {
    echo "usage: $0 dependencies|packages gateway|worker VENV" >&2
    exit 2
}

[ $# -eq 3 ] || usage
step=$1 role=$2 venv=$3
case $role in gateway | worker) ;; *) usage ;; esac
cd "$(dirname "$0")/.."

uv=${UV:-uv}
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case $step in
dependencies)
    # Our own core is the one dependency that no index has; it comes with the second step.
    echo reflex-fleet-core >"$scratch/excluded"
    # The lock holds the whole workspace with its development tools. As constraints it lends its versions and hashes to
    # the part that the manifests ask for; --require-hashes refuses whatever it does not name, transitive or not.
    "$uv" venv --quiet --allow-existing --python "${PYTHON:-python3}" "$venv"
    "$uv" pip install --python "$venv/bin/python" --require-hashes --no-build --no-sources \
        --constraints requirements.lock --excludes "$scratch/excluded" \
        -r shared/pyproject.toml -r "$role/pyproject.toml"
    ;;
packages)
    # Without --editable uv builds a wheel of each folder and installs that: nothing in the environment points back here.
    "$uv" pip install --python "$venv/bin/python" --no-deps --no-sources --build-constraints requirements.lock \
        ./shared "./$role"
    "$uv" pip check --python "$venv/bin/python"
    ;;
*) usage ;;
esac
