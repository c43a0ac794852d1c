# Runs a compiler, its arguments, and prints the file that it writes; what it says goes to stderr.
#
# When standard input ends, as it does when the process that started this script is killed, the
# files are removed, and the compiler is killed with all that it started.

trap '' TERM  # a batch system sends it to every process, and the files are removed below
exec 3<&0 </dev/null
folder=$(mktemp -d) || exit
# In a shell that ends at once, so that it is no descendant of a process that is killed with all its
# descendants.
({
    read -r _ <&3
    rm -rf "$folder" || rm -rf "$folder"  # the compiler may have written meanwhile
    kill -KILL 0
} >/dev/null 2>&1 &)
TMPDIR=$folder LC_ALL=C "$@" -o "$folder/kernel" 3<&- >&2 && cat "$folder/kernel" 2>/dev/null
code=$?
rm -rf "$folder"
exit $code
