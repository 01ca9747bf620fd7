# The kernel's own DMA map benchmark, some sizes, with and without MAY_BLOCK.
# usage: ns.sh SECONDS
. /test/lib.sh
plan 1
# It makes the device that the benchmark binds to.
insmod $results/pair.ko loops=0 pairs=1
for granule in 1 16; do
	for may_block in 0 1; do
		flag=
		if [ $may_block = 1 ]; then
			throttling || continue
			flag=-w
		fi
		$results/dma_map_benchmark -t 1 -s "$1" -g $granule -d 1 $flag >/tmp/out || continue
		sed -n 's/^average \([a-z]*\) latency(us):\([0-9.]*\) standard deviation:\([0-9.]*\)/\1 \2 \3/p' /tmp/out |
			awk -v size=$((granule * 4096)) -v may_block=$may_block '
				{ us[$1] = $2; dev[$1] = $3 }
				END { printf "{\"size\":%d,\"may_block\":%d,\"map_ns\":%d,\"map_dev_ns\":%d,\"unmap_ns\":%d,\"unmap_dev_ns\":%d}\n",
					size, may_block, us["map"] * 1000, dev["map"] * 1000, us["unmap"] * 1000, dev["unmap"] * 1000 }' >>$results/ns.jsonl
	done
done
if [ -s $results/ns.jsonl ]; then ok "maps are measured"; else not_ok "maps are measured"; fi
finish
