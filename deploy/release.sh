#!/bin/sh
# Writes a version where it has to stand, and the section of CHANGELOG.md. Committing and tagging stay with you.
#
#   deploy/release.sh 0.2.0
#
# Called by `make release`. TOWNCRIER is the program that joins docs/changelog.d.
set -eu

[ $# -eq 1 ] || { echo "usage: make release VERSION=0.2.0" >&2; exit 2; }
version=$1
echo "$version" | grep -Eq '^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$' || {
    echo "release: $version is not a version such as 0.2.0 or 0.2.0rc1" >&2
    exit 2
}
cd "$(dirname "$0")/.."

edit() { # an expression of sed, a file; -i alone is not the same everywhere
    sed -E "$1" "$2" >"$2.new" && cat "$2.new" >"$2" && rm "$2.new"
    grep -q "$version" "$2" || { echo "release: $2 has no line to write the version to" >&2; exit 1; }
}

edit "s/^VERSION = .*/VERSION = \"$version\"/" shared/reflex/core/version.py
for part in gateway worker; do
    edit "s/\"reflex-fleet-core==[^\"]*\"/\"reflex-fleet-core==$version\"/" "$part/pyproject.toml"
done
edit "/^reflex_version:/,\$ s/default: .*/default: \"$version\"/" copier.yml
"${TOWNCRIER:-towncrier}" build --yes --version "$version"
echo "next: make lock ci, commit, git tag v$version, make wheels"
