# A pool that can grow does so when waits last, and no longer than they do.
. /test/lib.sh

throttling || { tell "this kernel has no swiotlb throttling"; exit 1; }
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan 3
load="--filename=/dev/$(nvme_disk 0) --direct=1 --ioengine=libaio --rw=randread --bs=128k --time_based"

# grown NAME SECONDS ARGS...: run a load; $slots0 and $slots are the sizes of the pool before and after it.
grown() {
	local name=$1 seconds=$2
	shift 2
	slots0=$(stat io_tlb_nslabs)
	measure_start
	run_fio "$name" $((seconds + 60)) $load --runtime=$seconds "$@"
	measure_end
	slots=$(stat io_tlb_nslabs)
	figures="$slots0 slots, then $slots; $throttled waits, the longest $longest_wait_ms ms, $timed_out timed out; $failed_maps failed of $maps maps"
	why=
	[ "$failed_maps $timed_out $capped $errors" = "0 0 0 0" ] || why="; failed maps or waits given up, $errors fio errors"
}
told() { if [ -z "$why" ]; then ok "$1" "$figures"; else not_ok "$1" "${why#; } ($figures)"; fi; }

grown fits 3 --iodepth=4
[ $slots = $slots0 ] || why="$why; it has grown"
[ $throttled = 0 ] || why="$why; somebody waited"
told "nobody waits, the pool stays as it is"

# What 64 requests of 128 KiB need, and a step of growth more, is enough.
grown waits 6 --iodepth=64
[ $throttled -gt 0 ] || why="$why; nobody waited"
[ $slots -gt $slots0 ] || why="$why; it has not grown"
[ $((slots * 70 / 100)) -ge 4096 ] || why="$why; it does not hold 64 requests below the threshold"
[ $slots -le $((4096 * 100 / 70 + 2 * slots0)) ] || why="$why; it has grown by more than it takes"
told "waits that last make the pool grow, as far as it takes"

grown enough 6 --iodepth=64
[ $slots = $slots0 ] || why="$why; it has grown"
[ $throttled = 0 ] || why="$why; somebody waited"
told "the pool has grown enough, and nobody waits any more"
finish
