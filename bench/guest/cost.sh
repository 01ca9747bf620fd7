# Run the module pair for some sizes, with and without MAY_BLOCK, and keep what it says.
# usage: cost.sh [SYSCTL=VALUE...]
. /test/lib.sh
plan 1
for set in "$@"; do knob "${set%=*}" "${set#*=}"; done

# The second size goes round the pool once as well.
for load in "size=4096 pairs=16384" "size=65536 pairs=1024"; do
	for may_block in 0 1; do
		# The base has no such attribute and refuses.
		insmod $results/pair.ko $load may_block=$may_block || continue
		rmmod pair
	done
done
dmesg | sed -n 's/.*pair: {/{/p' >$results/pair.jsonl
lines=$(wc -l <$results/pair.jsonl)
if [ "$lines" -gt 0 ]; then ok "pairs are measured" "$lines lines"; else not_ok "pairs are measured"; fi
finish
