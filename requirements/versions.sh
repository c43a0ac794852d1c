#!/bin/sh
# Runs the test suite, both tiers, on the locked versions of every supported Python, and on the lowest versions
# that the ranges admit. Each has an environment of its own in .venv-versions, which is built once, and runs the
# files of tests in another order.
#   requirements/versions.sh [ENVIRONMENT…]   py311 py312 py313 py314 lowest (with Python 3.11); all by default
# Requires uv (pip install uv), python3.11 to python3.14. TESTS="tests/clip …" runs fewer tests.
set -u
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "uv is required: pip install uv" >&2; exit 2; }

# install ENVIRONMENT PYTHON
install() {
  folder=.venv-versions/$1 versions=requirements/lock-$1.txt
  [ "$1" != lowest ] || versions=requirements.txt
  [ "$folder/installed" -nt $versions ] && [ "$folder/installed" -nt requirements/opencv.in ] && return
  if [ "$1" = lowest ]; then
    versions=.venv-versions/lowest.txt
    uv pip compile --quiet --resolution lowest-direct --python "$2" --output-file $versions \
      --overrides requirements/overrides.txt --constraints requirements/build.txt \
      requirements.txt requirements/opencv.in || return
  fi
  uv venv --quiet --clear --python "$2" "$folder" &&
    uv pip install --quiet --python "$folder" --no-deps -r requirements/build.txt &&
    uv pip install --quiet --python "$folder" --no-deps --no-build-isolation -r $versions &&
    touch "$folder/installed"
}

failed=0
mkdir -p .venv-versions
for environment in ${*:-py311 py312 py313 py314 lowest}; do
  case $environment in
    py3*) python=python3.${environment#py3} ;;
    *) python=python3.11 ;;
  esac
  log=.venv-versions/$environment.log
  install "$environment" $python >"$log" 2>&1 &&
    ".venv-versions/$environment/bin/python" -m pytest -n 2 -m "" --shuffle $environment ${TESTS:-} >"$log" 2>&1 || failed=1
  echo "$environment: $(tail -n 1 "$log")"
done
exit $failed
