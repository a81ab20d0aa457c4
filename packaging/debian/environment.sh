#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# environment.sh READY FOLDER PLACE PACKAGE [BESIDE BESIDE_PLACE]: a virtual environment in FOLDER that will lie in
# PLACE, with PACKAGE and what it needs out of READY/wheels. BESIDE is the site-packages of an environment it builds
# on, BESIDE_PLACE where that will lie. The same wheels give the same files.
set -euo pipefail

ready=$1 folder=$2 place=$3 package=$4 beside=${5:-} beside_place=${6:-}
python=/usr/bin/python3
version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
site=$folder/lib/python$version/site-packages

$python -m venv "$folder"
if [[ -n $beside ]]; then
	echo "$beside" >"$site/homebound.pth"
fi
"$folder/bin/python3" -m pip --disable-pip-version-check --isolated install --quiet --no-index --no-compile \
	--find-links "$ready/wheels" --constraint "$ready/constraints.txt" "$package"

# What only made the environment goes, and so does Flower's installer of further packages, which never runs here.
rm -rf "$site"/{pip,pip-*,uv,uv-*.dist-info,_distutils_hack,distutils-precedence.pth}
rm -rf "${folder:?}"/{include,share,lib64,.gitignore}
find "$folder/bin" -mindepth 1 ! -name 'python*' -delete
find "$folder" -name __pycache__ -prune -exec rm -rf {} +
find "$site" -maxdepth 2 \( -name direct_url.json -o -name REQUESTED -o -name INSTALLER \) -delete
# The lists would name the scripts that went, with sums of lines in which the folder of this build stood.
sed -i '/^\.\.\/\.\.\/\.\.\/bin\//d' "$site"/*.dist-info/RECORD
# Tests of others, headers and what one links against.
rm -rf "$site"/*/tests "$site"/{numpy,sympy}/*/tests "$site"/torch/{include,share/cmake,test,lib/*.a}
rm -f "$site"/torch/lib/lib{aoti_custom_ops,backend_with_compiler,jitbackend_test,torchbind_test}.so
find "$site" -path '*/torch/bin/*' ! -name torch_shm_manager -delete
ln -sfn python3 "$folder/bin/python"
ln -sfn $python "$folder/bin/python3"
ln -sfn python3 "$folder/bin/python$version"
# The first one sees Debian's python3-systemd; the trainer sees no more than it needs.
cat >"$folder/pyvenv.cfg" <<-CONFIG
	home = /usr/bin
	include-system-site-packages = $([[ -z $beside ]] && echo true || echo false)
	version = $($python -c 'import platform; print(platform.python_version())')
	executable = $(readlink -f $python)
	command = $python -m venv $place
CONFIG
if [[ -n $beside ]]; then
	echo "$beside_place" >"$site/homebound.pth"
fi
chmod -R u+rwX,go+rX,go-w "$folder"
find "$site" -type f -perm /111 ! -name '*.so*' ! -path '*/bin/*' -exec chmod a-x {} +
