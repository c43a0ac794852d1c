#!/bin/sh
# Creates an environment with the given Python; if that is not supported, with one that uv finds or downloads.
#   requirements/venv.sh PYTHON ENVIRONMENT [GOAL]
set -u
"$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' && exec "$1" -m venv "$2"

echo "$1 is not Python 3.11 to 3.14: uv looks for one" >&2
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
PATH=$PATH:$temporary/bin
command -v uv >/dev/null || {
  "$1" -m venv "$temporary" && "$temporary/bin/pip" install --quiet --only-binary :all: 'uv>=0.9,<1'
}
uv venv --seed --allow-existing --python '>=3.11,<3.15' "$2" && exit
echo "Python 3.11 to 3.14 is required: make ${3:-} PYTHON=python3.11" >&2
exit 2
