# Loads that hang or fail with a full pool, each with what throttling has to guarantee.
# usage: load.sh SECONDS [measure]     "measure": tell the figures, expect only that it ends
# Needs two disks, the second with 8 bytes of metadata a block; both slow enough that the queue stands.
. /test/lib.sh
seconds=$1
expect=${2:-throttling}
disk=$(nvme_disk 0) && meta=$(nvme_disk 1) || exit 1
queue=/sys/block/$disk/queue
meta_kib=$(cat /sys/block/$meta/queue/max_sectors_kb)
disk=/dev/$disk
meta=/dev/$meta
patience=${PATIENCE:-60}

# attempt NAME SECONDS ARGS...: run the load and measure; a hang ends it all.
attempt() {
	local name=$1 runtime=$2
	shift 2
	measure_start
	if run_fio "$(echo "$name" | tr ' ,' '__')" $((runtime + patience)) --time_based --runtime="$runtime" "$@"; then
		measure_end
	else
		measure_end
		not_ok "$name" "hang; failed $failed_maps, used $(stat io_tlb_used), waiting $waiting"
		finish
	fi
}

# scenario NAME REQUEST_KIB ARGS...: REQUEST_KIB is the largest request of this load.
scenario() {
	local name=$1 kib=$2 why= figures one
	shift 2
	# Buffers are whole pages here, so a request takes its size in slots; two more for its metadata.
	one=$((kib / 2 + 2))
	attempt "$name" "$seconds" "$@"
	if [ "$expect" = throttling ] && [ "$throttled" = 0 ] && [ "$failed_maps" = 0 ] && [ "$name" != polled ]; then
		tell "$name: the pool did not fill (busy machine?), again for $((seconds * 4)) s"
		attempt "$name" $((seconds * 4)) "$@"
	fi
	figures="failed $failed_maps of $maps maps, hiwater $used_hiwater, high $high, throttled $throttled, serialized $serialized, timed out $timed_out, capped $capped, longest wait $longest_wait_ms ms, $mib_s MiB/s, p99 $p99_us us"
	[ "$errors" = 0 ] || why="$why; $errors fio errors"
	[ "$missed" = 0 ] || why="$why; the probe missed $missed maps"
	[ "$maps" -gt 0 ] || why="$why; nothing was mapped"
	# Verified means read back.
	[ "$reads" -gt 0 ] || [ "$name" != "metadata, verified" ] || why="$why; nothing was read back"
	if [ "$expect" = throttling ]; then
		[ "$failed_maps" = 0 ] || why="$why; $failed_maps failed maps"
		[ "$timed_out" = 0 ] || why="$why; $timed_out waits timed out"
		[ "$capped" = 0 ] || why="$why; $capped waits reached the cap"
		[ "$waiting" = 0 ] || why="$why; $waiting still waiting"
		[ "$used_hiwater" -le $((high + one)) ] || why="$why; hiwater above high + one request ($one)"
		# The polled load never waits; every other has to, or it has shown nothing.
		[ "$throttled" -gt 0 ] || [ "$name" = polled ] || why="$why; nobody was throttled"
	fi
	if [ -z "$why" ]; then ok "$name" "$figures"; else not_ok "$name" "${why#; }: $figures"; fi
}

if [ "$expect" = throttling ] && ! throttling; then
	tell "this kernel has no swiotlb throttling"
	exit 1
fi
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan 10

raw="--filename=$disk --direct=1"
scenario "io_uring" 128 $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
scenario "libaio writes" 128 $raw --ioengine=libaio --rw=randwrite --bs=128k --iodepth=64 --numjobs=2
scenario "psync" 128 $raw --ioengine=psync --rw=randread --bs=128k --numjobs=48 --thread
scenario "io_uring, batches of 16" 64 $raw --ioengine=io_uring --rw=randread --bs=64k --iodepth=64 --numjobs=2 \
	--iodepth_batch=16 --iodepth_batch_complete_min=8
scenario "libaio, batches of 16" 64 $raw --ioengine=libaio --rw=randread --bs=64k --iodepth=64 --numjobs=2 \
	--iodepth_batch=16 --iodepth_batch_complete_min=8

echo mq-deadline >$queue/scheduler
scenario "mq-deadline" "$(cat $queue/max_sectors_kb)" $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
echo none >$queue/scheduler

scenario "polled" 128 $raw --ioengine=io_uring --hipri=1 --rw=randread --bs=128k --iodepth=64 --numjobs=2

# Metadata of its own: written with it, read back, compared; data plus metadata wait once.
# Data plus metadata wait once. Small pieces of metadata among large ones of data leave holes in the pool.
scenario "metadata, large reads" 128 --filename=$meta --direct=1 --ioengine=io_uring --rw=randread --bs=128k \
	--iodepth=64 --numjobs=2
# Metadata of its own: written with it, read back, compared.
scenario "metadata, verified" "$meta_kib" --filename=$meta --direct=1 --ioengine=io_uring --rw=write --bs=64k \
	--iodepth=32 --numjobs=2 --size=8m --offset_increment=8m --verify=crc32c --verify_fatal=1

/bin/mke2fs -q -t ext4 -F $disk >/dev/null && mount -t ext4 $disk /mnt || { not_ok "buffered writes" "no file system"; finish; }

scenario "buffered writes and fsync" "$(cat $queue/max_sectors_kb)" --directory=/mnt --direct=0 --ioengine=psync \
	--rw=write --bs=64k --size=24m --numjobs=8 --fsync=32
bounded 30 umount /mnt
finish
