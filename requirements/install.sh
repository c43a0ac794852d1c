#!/bin/sh
# Installs into an environment as pip install does, but with uv, which is faster. uv does not read pip's settings: those
# that it has too are passed on. With other settings, or where uv cannot be installed or fails, pip installs.
#   requirements/install.sh ENVIRONMENT ARGUMENTS…
set -eu
trap 'exit 130' INT
python=$1/bin/python reason=
shift

"$python" -m uv --version >/dev/null 2>&1 || "$python" -m pip install --quiet --only-binary :all: 'uv>=0.9,<1' ||
  reason='uv cannot be installed'
# A line is NAME='VALUE', where \n and spaces separate values. Variables take precedence, and are the last ones.
while IFS='=' read -r name value; do
  case $name in
    '' | *.break-system-packages | *.config-file | *.disable-pip-version-check | *.no-input | *.progress-bar) ;;
    *.require-virtualenv | *.retries | *.root-user-action) ;;
    global.cert | :env:.cert) export SSL_CERT_FILE="$value" ;;
    global.*timeout | :env:.*timeout) export UV_HTTP_TIMEOUT="$value" ;;
    global.no-cache-dir | :env:.no-cache-dir) export UV_NO_CACHE="$value" ;;
    global.index-url | :env:.index-url) export UV_DEFAULT_INDEX="$value" ;;
    global.extra-index-url | :env:.extra-index-url) export UV_INDEX="$value" ;;
    global.constraint | :env:.constraint) export UV_CONSTRAINT="$value" ;;
    global.find-links | :env:.find-links) export UV_FIND_LINKS="$(echo "$value" | tr ' ' ,)" ;;
    *) reason="uv does not have pip's setting $name" ;;
  esac
done <<SETTINGS
$("$python" -m pip config list | sed "s/\\\\n/ /g; s/  */ /g; s/=['\"] */=/; s/ *['\"]\$//" | LC_ALL=C sort -r)
SETTINGS

if [ -z "$reason" ]; then
  cache=$("$python" -m uv cache dir) && mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || export UV_NO_CACHE=1
  # Of all indexes, it takes the best version, as pip does.
  "$python" -m uv pip install --python "$python" --index-strategy unsafe-best-match "$@" && exit
  reason='uv failed'
fi
echo "$reason: pip installs" >&2
case $* in *--group*) "$python" -m pip install 'pip>=25.1' ;; esac # the first that has groups
exec "$python" -m pip install "$@"
