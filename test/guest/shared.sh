# Run a script that the host has brought with -f.
# usage: shared.sh SCRIPT [args]
script=/results/$1
shift
. "$script"
