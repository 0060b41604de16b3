#!/usr/bin/env bash
# An environment for each peer under .peers, with the versions that were compared. Minutes; a stamp marks what is done.
#
#   PYTHON=python3.11   the interpreter; PIP_OPTIONS, PIP_TORCH_OPTIONS: as in the Makefile
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
place=${PEERS:-$here/../../.peers}
mkdir -p "$place"

install() { # NAME, then options of pip
    test -e "$place/$1/.installed-$(sha256sum <"$here/$1.txt" | cut -c1-12)" && return
    echo "setting up $1 ..."
    test -x "$place/$1/bin/python" || "${PYTHON:-python3}" -m venv "$place/$1"
    # shellcheck disable=SC2086
    "$place/$1/bin/python" -m pip install -qq --disable-pip-version-check ${PIP_OPTIONS:-} "${@:2}" -r "$here/$1.txt"
    touch "$place/$1/.installed-$(sha256sum <"$here/$1.txt" | cut -c1-12)"
}

install its_hub
install treequest
# ThinkBooster asks for vllm 0.12 and for CUDA builds with it; over a server it needs neither. So: what it imports, by
# name, and nothing that these ask for. torch comes first, from wherever the Makefile gets it.
test -x "$place/thinkbooster/bin/python" || "${PYTHON:-python3}" -m venv "$place/thinkbooster"
# shellcheck disable=SC2086
"$place/thinkbooster/bin/python" -m pip install -qq --disable-pip-version-check ${PIP_OPTIONS:-} \
    ${PIP_TORCH_OPTIONS:-} --no-deps "torch==2.13.0"
install thinkbooster --no-deps
