# Runs a compiler, its arguments, and prints the file that it writes; what it says goes to stderr.
#
# When standard input ends, as it does when the process that started this script is killed, the
# compiler and all that it started are ended, and their files are removed.

exec 3<&0 </dev/null
trap : TERM   # ends what this script started, and not this script
trap '' PIPE  # nobody may be there to read messages
folder=$(mktemp -d) || exit
{
    trap '' TERM
    read -r _ <&3
    kill -TERM 0  # the session of this script
    sleep 1
    rm -rf "$folder"
    kill -KILL 0
} 2>/dev/null &
TMPDIR=$folder LC_ALL=C "$@" -o "$folder/kernel" 3<&- >&2 && cat "$folder/kernel" 2>/dev/null
code=$?
rm -rf "$folder"
kill -KILL $!
exit $code
