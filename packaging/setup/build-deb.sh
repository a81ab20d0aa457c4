#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build-deb.sh [OUT]: the Debian packages, a bill of materials for each, and what lintian says of them, in OUT
# (dist). For the Debian release that this runs on: wheels belong to one version of Python. Wants "make setup bpf".
# WORK is where it builds (build/deb); another one gives the same packages.
set -euo pipefail

cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:-dist}")
work=$(realpath -m "${WORK:-build/deb}")
tree=$work/tree
python=$PWD/.venv/bin/python
say() { printf 'build-deb: %s\n' "$1"; }

packaging/setup/install-debian.sh build-essential debhelper dpkg-dev fakeroot lintian python3-venv

SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --file packaging/debian/changelog --show-field Timestamp)
export SOURCE_DATE_EPOCH
umask 022
rm -rf "$work"
mkdir -p "$tree" "$out"
cp -r bpf daemon docs examples packaging units LICENSE LICENSES README.md CHANGELOG.md pyproject.toml "$tree"
find "$tree" \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
cp -r packaging/debian "$tree/debian"
cp units/homebound.service "$tree/debian/homebound.service"
cp units/sysusers.d/homebound.conf "$tree/debian/homebound.sysusers"
cp units/tmpfiles.d/homebound.conf "$tree/debian/homebound.tmpfiles"
ready=$tree/debian/ready
mkdir -p "$ready"/{wheels,man,completion}
cp packaging/requirements/runtime.txt "$ready/constraints.txt"

say "wheels"
pip() { "$python" -m pip --quiet --quiet --disable-pip-version-check "$@"; }
(cd "$tree" && pip wheel --no-deps --no-build-isolation --wheel-dir "$ready/wheels" . && rm -rf build daemon/*.egg-info)
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' daemon/homebound/__init__.py)
torch=$(grep ^torch== packaging/requirements/runtime.txt)
pip wheel --wheel-dir "$ready/wheels" --constraint "$ready/constraints.txt" "$ready/wheels/homebound-$version"-*.whl "$torch"
if compgen -G "$ready/wheels/nvidia_*" >/dev/null; then
	say "torch came with libraries for GPUs: homebound-trainer gets several GB (docs/install.md, \"From a clone\")"
fi

say "man pages and completion"
export PYTHONPATH=$tree/daemon PYTHONDONTWRITEBYTECODE=1
"$python" packaging/man/pages.py "$ready/man"
for shell in bash zsh fish; do
	_HOMEBOUND_COMPLETE=${shell}_source "$python" -m homebound >"$ready/completion/homebound.$shell"
done
unset PYTHONPATH

say "packages"
# Only the machine's own architecture: a cross build would need that one's wheels and interpreter.
(cd "$tree" && dpkg-buildpackage --build=binary --no-sign --jobs=2 >"$work/log" 2>&1) || {
	tail -40 "$work/log" >&2
	exit 1
}
rm -f "$out"/homebound*_*.{deb,cdx.json} "$out/lintian.txt"
cp "$work"/homebound*.deb "$out/"

say "bills of materials"
if [[ ! -e build/sbom-tool/bin/cyclonedx-py ]]; then
	/usr/bin/python3 -m venv build/sbom-tool
	build/sbom-tool/bin/pip --quiet --disable-pip-version-check install cyclonedx-bom==7.5.0
fi
arch=$(dpkg --print-architecture)
for pair in homebound:venv homebound-trainer:trainer; do
	package=${pair%:*}
	# An environment that sees the package's alone: the package's own interpreter is a link into the root.
	/usr/bin/python3 -m venv --without-pip "$work/look/$package"
	echo "$tree/debian/$package/usr/lib/homebound/${pair#*:}"/lib/python*/site-packages \
		>"$(echo "$work/look/$package"/lib/python*/site-packages)/look.pth"
	build/sbom-tool/bin/cyclonedx-py environment --output-reproducible --spec-version 1.6 --pyproject pyproject.toml \
		--output-file "$out/${package}_${version}_$arch.cdx.json" "$work/look/$package/bin/python3" 2>>"$work/log"
done

say "lintian"
lintian "$out"/homebound*.deb >"$out/lintian.txt" 2>&1 || {
	grep '^E:' "$out/lintian.txt" >&2 || cat "$out/lintian.txt" >&2
	exit 1
}
ls -l "$out"
