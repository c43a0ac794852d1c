#!/bin/sh
# Writes the locks: a version and hashes of everything that requirements.txt leads to, for each Python.
#   requirements/lock.sh             changes only what the ranges no longer admit
#   requirements/lock.sh --upgrade   moves everything to the newest versions that the ranges admit
#   CPU=1 requirements/lock.sh       locks PyTorch's CPU builds, which only its own index serves
# Requires uv (pip install uv) and any Python. Options are passed on to uv.
set -eu
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "uv is required: pip install uv" >&2; exit 2; }

# compile OUTPUT PYTHON INPUTS AND OPTIONS…
compile() {
  output=$1 python=$2
  shift 2
  echo "requirements/$output"
  uv pip compile --quiet --generate-hashes --custom-compile-command 'make lock' \
    --python-version "$python" --python-platform x86_64-manylinux_2_28 --output-file "$output" "$@"
}

lock() {
  compile "$@" ../requirements.txt opencv.in --overrides overrides.txt --constraints build.txt
}

# It is installed first: what PyPI serves only as source is built with it.
compile build.txt 3.11 build.in "$@"
for python in 3.11 3.12 3.13 3.14; do
  name=py$(echo $python | tr -d .).txt
  if [ "${CPU:-}" ]; then
    lock "lock-cpu-$name" $python --torch-backend cpu "$@"
    echo '--extra-index-url https://download.pytorch.org/whl/cpu' >>"lock-cpu-$name" # pip looks there
  else
    lock "lock-$name" $python "$@"
    lock "lock-onedl-$name" $python onedl.in --overrides onedl-overrides.txt "$@"
  fi
done
