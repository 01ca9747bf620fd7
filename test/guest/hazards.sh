# What a disk or an administrator may do to an NVMe queue whose requests wait for bounce buffers.
# usage: hazards.sh GROUP SECONDS       (each load runs that long at least)
# The groups, and the disks that each needs, are in test/hazards.
. /test/lib.sh
group=$1
seconds=$2
expect=throttling

if ! throttling; then
	# These compare with what the kernel does that does not throttle.
	case $group in
	bounded | swap) expect=measure ;;
	*) tell "this kernel has no swiotlb throttling"; exit 1 ;;
	esac
fi
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }

. /test/steps.sh

# H1, H2, H4: what is mapped and not submitted, what is submitted and not told to the device, who has to poll.
group_submit() {
	local s slept begun began=$tracing/events/swiotlb/swiotlb_throttle_begin/enable
	plan 16
	# Large enough that slots, not tags, run out: 512 requests of 4 slots each. Sixteen who submit batches at once:
	# all of the pool may be mapped and not submitted.
	for engine in io_uring libaio; do
		request_kib=8
		scenario "$engine, small batches" $seconds $raw --ioengine=$engine $small $batch --rw=randread
		request_kib=8 read_back=yes
		scenario "$engine, small batches, verified" $seconds $raw --ioengine=$engine $small_verified $batch
	done
	request_kib=$max_kib read_back=yes
	scenario "io_uring, large batches, verified" $seconds $raw --ioengine=io_uring $large_verified $batch
	for s in mq-deadline kyber bfq; do
		set_to $queue/scheduler $s
		request_kib=$max_kib read_back=yes
		scenario "$s, verified" $seconds $raw --ioengine=io_uring $large_verified $batch
	done
	set_to $queue/scheduler mq-deadline
	request_kib=$max_kib
	scenario "mq-deadline, large" $seconds $raw --ioengine=io_uring --bs=128k --iodepth=64 --numjobs=4 --rw=randread
	set_to $queue/scheduler none
	waits=perhaps request_kib=64
	scenario "polled" $seconds $raw --ioengine=io_uring --hipri=1 --rw=randread $large
	step=submit_polled request_kib=64
	scenario "polled beside interrupts" $((seconds + 4)) $raw --ioengine=psync --bs=64k --numjobs=64 --thread --rw=randread
	# A scheduler hands whoever polls the requests of others, while their own worker waits. All on one CPU, so that they are
	# on one queue. With this scheduler only workers dispatch for the others.
	set_to $queue/scheduler mq-deadline
	echo >$tracing/trace
	[ ! -e $began ] || set_to $began 1
	step="submit_polled --iodepth_batch=8 --iodepth_batch_complete_min=8 --cpus_allowed=0" request_kib=$max_kib
	scenario "polled beside interrupts, mq-deadline" $((seconds + 4)) $raw --ioengine=psync --bs=64k --numjobs=64 --cpus_allowed=0 \
		--thread --rw=randread
	[ ! -e $began ] || set_to $began 0
	slept=$(grep -c ' fio-.*swiotlb_throttle_begin' $tracing/trace)
	begun=$(grep -c swiotlb_throttle_begin $tracing/trace)
	if left_out "polled beside interrupts, mq-deadline" "who polls does not wait for the others"; then
		:
	elif [ $slept = 0 ] && [ $begun -ge $throttled ]; then
		ok "who polls does not wait for the others" "0 of $begun waits"
	else
		not_ok "who polls does not wait for the others" "$slept of $begun waits are its own; $throttled waited"
	fi
	set_to $queue/scheduler none
	# Others are ahead of it for ever, and nobody would wake it.
	hold 1500 || { not_ok "polled beside a pool held by others" "nobody holds it"; finish; }
	step=submit_polled request_kib=64 overfull=yes
	scenario "polled beside a pool held by others" $((seconds + 4)) $raw --ioengine=psync --bs=64k --numjobs=24 --thread --rw=randread
	# At least a third of what each of the 24 got, who waited for each of theirs. It has been as little as seven tenths.
	if left_out "polled beside a pool held by others" "polled requests get their turn"; then
		:
	elif [ $((polled_reads * 72)) -ge $throttled ]; then
		ok "polled requests get their turn" "$polled_reads, the others $throttled among 24"
	else
		not_ok "polled requests get their turn" "$polled_reads, the others $throttled among 24"
	fi
	hold_end
	make_ext4 && mount -t ext4 $disk /mnt || { not_ok "plugged writeback" "no file system"; finish; }
	request_kib=$max_kib read_back=yes step=drop_caches
	scenario "plugged writeback, verified" $seconds $buffered
	bounded 30 umount /mnt
}
submit_polled() {
	polled_load $seconds "$@"
	note="$polled_reads polled reads"
}
# Read back from the disk, not from the page cache.
buffered="--directory=/mnt --ioengine=psync --bs=64k --size=12m --numjobs=8 --rw=write --fsync=24 --verify=crc32c
	--verify_fatal=1 --time_based=0 --runtime=90"
drop_caches() {
	while kill -0 $fio 2>/dev/null; do
		echo 3 >/proc/sys/vm/drop_caches
		sleep 1
	done
}
make_ext4() { /bin/mke2fs -q -t ext4 -F $disk >/dev/null; }

# A segment of metadata that is two vectors side by side: all of it is mapped, and what was taken is given back. Behind the
# part of the disk that the loads use; with one segment at most, such a buffer would be copied.
metadata_in_two_vectors() {
	local name="metadata, a segment of two vectors" ctrl=$(nvme_ctrl 1) disk=$(nvme_disk 1) segments reads= wrong=
	! left_out "$name" "$name" || return 0
	why=
	insmod $results/meta_sgl.ko && nvme_reset || why="; the module cannot be loaded"
	segments=$(cat /sys/block/$disk/queue/max_integrity_segments)
	bounded 120 $results/pi_pages /dev/$disk 228 >/tmp/pi_pages 2>&1
	read -r reads wrong </tmp/pi_pages
	if [ "$(cat /tmp/pi_pages)" != "$reads $wrong" ]; then
		why="$why; $(head -n 2 /tmp/pi_pages | tr '\n#' ' .')"
		wrong=
	fi
	settled || why="$why; $(stat io_tlb_used) slots in use and $(stat throttle_charged) charged"
	rmmod meta_sgl && nvme_reset || why="$why; the module stays"
	if [ "$wrong$why" = 0 ] && [ "$reads" -gt 100 ] && [ "$segments" -gt 1 ]; then
		ok "$name" "$reads reads, $segments segments at most"
	else
		not_ok "$name" "${wrong:-?} of ${reads:-?} reads with other tuples, $segments segments at most$why"
	fi
}

# H3: data and metadata of a request are admitted as one, and fail as one.
group_metadata() {
	local separate inline
	plan 7
	separate="$(with_metadata 1)" && inline=/dev/$(nvme_disk 2) || exit 1
	load="--direct=1 --ioengine=io_uring $batch"
	request_kib=8
	scenario "metadata, small batches" $seconds $separate $load $small --rw=randread
	request_kib=8 read_back=yes
	scenario "metadata, verified" $seconds $separate $load $small_verified
	request_kib=$max_kib read_back=yes
	scenario "metadata, large and verified" $seconds $separate $load $large_verified
	request_kib=$max_kib read_back=yes
	scenario "metadata inline, verified" $seconds --filename=$inline $load $large_verified
	metadata_in_two_vectors
	# Not throttled, maps of data and of metadata fail: all of them are tried again. Each takes one slot, even or odd: if the
	# data took pairs, there would always be one for the metadata.
	knob throttle_high 100
	host block_set_io_throttle d1 0 0 0 500 0 0
	stalls=yes waits=perhaps
	scenario "metadata that cannot be mapped is tried again" $((seconds * 2)) $separate --direct=1 --ioengine=io_uring \
		--bs=2k --iodepth=512 --numjobs=4 --rw=randread
	if left_out "metadata that cannot be mapped is tried again" "maps did fail"; then
		:
	elif [ "$failed_maps" -gt 100 ]; then
		ok "maps did fail" "$failed_maps"
	else
		not_ok "maps did fail" "$failed_maps"
	fi
}

# H5: whoever resets, changes or takes the device away waits for those who dispatch.
group_reset() {
	plan 7
	step="repeat 5 nvme_reset" request_kib=$max_kib read_back=yes
	scenario "reset, verified" $((seconds + 8)) $raw --ioengine=io_uring $large_verified $batch
	step="repeat 4 nvme_queues" request_kib=$max_kib read_back=yes
	scenario "number of queues changes, verified" $((seconds + 8)) $raw --ioengine=libaio $large_verified $batch
	step="repeat 8 nvme_rescan" request_kib=64
	scenario "rescan" $((seconds + 8)) $raw --ioengine=psync --rw=randread --bs=64k --numjobs=48 --thread
	step="repeat 3 nvme_format" request_kib=64
	scenario "format" $((seconds + 8)) $raw --ioengine=psync --rw=randread --bs=64k --numjobs=48 --thread
	hold 1500 || { not_ok "commands beside a pool held by others" "nobody holds it"; finish; }
	measure_start
	repeat 3 nvme_admin
	measure_end
	if [ "$throttled$serialized" = 00 ] && [ $longest -lt $(knob throttle_stall_ms) ]; then
		ok "admin commands are not throttled" "longest $longest ms"
	else
		not_ok "admin commands are not throttled" "$throttled waited, $serialized were let through, longest $longest ms"
	fi
	# Those who hold it do not wait for slots, but what is above high is theirs.
	step="repeat 4 commands" request_kib=64 overfull=yes
	scenario "commands beside a pool held by others" $((seconds + 8)) $raw --ioengine=psync --rw=randread --bs=64k --numjobs=32 --thread
	step="repeat 3 nvme_reset" request_kib=64 overfull=yes
	scenario "reset beside a pool held by others" $((seconds + 8)) $raw --ioengine=psync --rw=randread --bs=64k --numjobs=32 --thread
	hold_end
}
commands() { nvme_admin && nvme_passthrough; }

group_remove() {
	plan 6
	for i in 1 2; do
		step=nvme_remove fails=yes stalls=yes waits=perhaps
		scenario "removal through sysfs, $i" $((seconds + 4)) $raw --ioengine=io_uring $large $batch --rw=randrw
		why=
		disk_back
		if [ -z "$why" ]; then ok "the disk comes back, $i"; else not_ok "the disk comes back, $i" "${why#; }"; finish; fi
	done
	# No answer for longer than anybody waits, and meanwhile it is taken away.
	step=remove_silent fails=yes stalls=yes waits=perhaps
	other=/dev/$(nvme_disk 1)
	pci=$(nvme_pci 1)
	scenario "a disk that does not answer is removed" $((seconds + 20)) --filename=$other --direct=1 --ioengine=psync --rw=randread --bs=64k \
		--numjobs=48 --thread
	pci=$(nvme_pci 0)
	step=unplug fails=yes stalls=yes waits=perhaps
	scenario "the disk is unplugged" $((seconds + 20)) $raw --ioengine=io_uring $large $batch --rw=randrw
}
unplug() {
	sleep 2
	host device_del n0
	attempted 60 gone
	note="gone after $ms ms"
}
remove_silent() {
	sleep 2
	silence d1
	sleep 2
	set_to /sys/bus/pci/devices/$pci/remove 1 &
	# Before the driver's timeout, at which the controller that is going away would delete its queues.
	sleep 3
	speak d1
	attempted 60 gone
	note="gone $ms ms after it answers again"
}

# A disk that stops until the driver's timeout, nvme_core.io_timeout, resets it.
group_timeout() {
	plan 3
	{
		echo 'p:rig/awaits synchronize_srcu'
		echo 'r64:rig/awaited synchronize_srcu'
	} >>$tracing/kprobe_events
	step=stop_answering stalls=yes request_kib=$max_kib read_back=yes
	scenario "a disk that does not answer is reset, verified" $((seconds + 40)) $raw --ioengine=io_uring $large_verified $batch
	step=stop_answering stalls=yes request_kib=8
	scenario "short batches to a disk that does not answer" $((seconds + 40)) $raw --ioengine=io_uring --thread --bs=8k --iodepth=5 \
		--iodepth_batch=5 --iodepth_batch_complete_min=5 --numjobs=160 --rw=randread
	request_kib=64
	scenario "the disk works as before" $seconds $raw --ioengine=io_uring $large $batch --rw=randread
}
stop_answering() {
	local limit longest
	# Who dispatches leaves after a second, or the wait of one request; and as much again for a busy machine.
	limit=$(($(knob throttle_cap_ms) + 2000))
	sleep 2
	echo >$tracing/trace
	trace_awaits 1
	silence d0
	until_told aborting
	until_told 'reset controller'
	trace_awaits 0
	speak d0
	longest=$(awk '$5 == "awaits:" { since[$1] = $4 }
		$5 == "awaited:" && $1 in since { ms = ($4 - since[$1]) * 1000; longest = ms > longest ? ms : longest }
		END { print int(longest) }' $tracing/trace)
	note="$note, dispatches awaited for $longest ms"
	[ $longest -le $limit ] || why="$why; timeouts or a reset waited $longest ms for dispatches, more than $limit"
}
trace_awaits() {
	set_to $tracing/events/rig/awaits/enable $1
	set_to $tracing/events/rig/awaited/enable $1
}
# Two seconds and more for a request, so that many reach the driver's timeout. Not for ever: QEMU stands still when a
# queue is deleted, until its requests are done.
silence() {
	dmesg -c >/dev/null
	silent_since=$(now_ms)
	host block_set_io_throttle $1 30000 0 0 0 0 0
}
speak() { host block_set_io_throttle $1 $((16 << 20)) 0 0 0 0 0; }
until_told() {
	until dmesg | grep -q "$1"; do
		[ $(($(now_ms) - silent_since)) -le 40000 ] || { why="$why; no '$1' within 40 s"; break; }
		usleep 100000
	done
	note="${note:+$note, }'$1' after $(($(now_ms) - silent_since)) ms"
}

# What happens to the whole machine.
group_suspend() {
	plan 1
	# The file system of the results does not survive it.
	exec >/dev/null 2>&1
	results=/tmp
	step="repeat 3 suspend" request_kib=$max_kib read_back=yes
	scenario "suspend to idle, verified" $((seconds + 16)) $raw --ioengine=io_uring $large_verified $batch --aux-path=/tmp
}
group_swap() {
	plan 2
	mkswap $disk >/dev/null && swapon $disk && mount -o remount,size=3g /tmp || { not_ok "memory pressure" "no swap"; finish; }
	request_kib=$max_kib step=swapped read_back=yes
	# More than what is left of the memory.
	swap_mib=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) + 160 }' /proc/meminfo)
	scenario "swap on the disk, verified" $seconds --directory=/tmp --ioengine=psync --bs=256k --size=${swap_mib}m --rw=write \
		--verify=crc32c --verify_fatal=1 --time_based=0 --runtime=120
	rm -f /tmp/swap*
	if bounded 60 swapoff $disk; then ok "the swap is given up"; else not_ok "the swap is given up"; fi
}
group_system() {
	plan 6
	step="repeat 4 cpu_cycle" request_kib=$max_kib read_back=yes
	scenario "CPU offline and online, verified" $((seconds + 12)) $raw --ioengine=io_uring $large_verified $batch
	# Not for want of buffers, so nobody waits for buffers because of it.
	step=no_descriptors request_kib=$max_kib read_back=yes
	scenario "no memory for descriptors, verified" $((seconds + 2)) $raw --ioengine=io_uring $large_verified
	make_ext4 && mount -t ext4 $disk /mnt || { not_ok "ext4" "no file system"; finish; }
	request_kib=$max_kib read_back=yes
	scenario "ext4, direct and verified" $seconds --directory=/mnt --direct=1 --ioengine=libaio --size=16m --bs=64k --iodepth=64 --numjobs=8 \
		$verified --verify_backlog=128
	bounded 30 umount /mnt
	mkfs.xfs -q -f $disk && mount -t xfs $disk /mnt || { not_ok "xfs" "no file system"; finish; }
	request_kib=$max_kib read_back=yes
	scenario "xfs, direct and verified" $seconds --directory=/mnt --direct=1 --ioengine=libaio --size=16m --bs=64k --iodepth=64 --numjobs=8 \
		$verified --verify_backlog=128
	request_kib=$max_kib read_back=yes step=drop_caches
	scenario "xfs, buffered and verified" $seconds $buffered
	# Page cache in large folios needs contiguous slots, which small requests scatter; but not what is above the threshold.
	knob throttle_high 99
	dd if=/dev/zero of=/mnt/large bs=1M count=160 2>/dev/null && echo 1024 >$queue/read_ahead_kb
	request_kib=$max_kib step=large_folios
	scenario "large folios beside small requests" $((seconds + 6)) $raw --ioengine=io_uring --rw=randread --bs=4k --iodepth=256 --numjobs=4
	bounded 30 umount /mnt
}
no_descriptors() {
	local retried failed
	insmod $results/no_descriptors.ko || { why="$why; the module cannot be loaded"; return; }
	retried=$(stat throttle_retried)
	sleep $((seconds - 1))
	failed=$(cat /sys/module/no_descriptors/parameters/failed)
	retried=$(($(stat throttle_retried) - retried))
	rmmod no_descriptors || why="$why; the module stays"
	note="$failed allocations failed, $retried maps retried"
	[ $failed -gt 20 ] || why="$why; hardly an allocation failed"
	[ $((retried * 10)) -le $failed ] || why="$why; requests without descriptors wait for buffers"
}
large_folios() {
	local n=0 retried
	retried=$(stat throttle_retried)
	while kill -0 $fio 2>/dev/null; do
		echo 1 >/proc/sys/vm/drop_caches
		bounded 90 cat /mnt/large >/dev/null || why="$why; the large file cannot be read"
		n=$((n + 1))
	done
	retried=$(($(stat throttle_retried) - retried))
	note="the large file read $n times, $retried maps retried"
	[ $retried -gt 0 ] || why="$why; there was room for each map"
}
swapped() {
	local most=0 used
	while kill -0 $fio 2>/dev/null; do
		used=$(awk '/^SwapTotal:/ { t = $2 } /^SwapFree:/ { f = $2 } END { print int((t - f) / 1024) }' /proc/meminfo)
		most=$((used > most ? used : most))
		sleep 1
	done
	note="up to $most MiB swapped"
	[ $most -gt 64 ] || why="$why; hardly anything was swapped"
}

# Slow is not stalled: 100 I/Os a second, 200 who want one.
group_slow() {
	local figures
	plan 3
	request_kib=64
	scenario "a slow disk" 30 $raw --ioengine=psync --rw=randread --bs=64k --numjobs=200 --thread
	if ! left_out "a slow disk" "whoever waits is served in order"; then
		figures=$(fio_json a_slow_disk | jq -r '.jobs[0].read.clat_ns |
			"\(.mean / 1e6 | round) \(.percentile["50.000000"] / 1e6 | round) \(.max / 1e6 | round)"')
		set -- $figures
		figures="latency: mean $1, median $2, longest $3 ms"
		# In a queue of equals all wait the same, but for the first ones; who was passed would wait for a turn more.
		if [ $(($3 * 2)) -le $(($1 * 3)) ]; then
			ok "whoever waits is served in order" "$figures"
		else
			not_ok "whoever waits is served in order" "$figures"
		fi
	fi
	# Each request of a list waits its turn, and a reset waits for who dispatches the list.
	step=reset_in_batch request_kib=64
	scenario "batches to a slow disk, resets" 30 $raw --ioengine=psync --rw=randread --bs=64k --numjobs=200 --thread
}
reset_in_batch() {
	local batch
	sleep 4
	fio --name=batch --output=$results/batch.fio.json --output-format=json --eta=never --time_based --runtime=8 $raw --ioengine=io_uring \
		--rw=randread --bs=4k --iodepth=32 --iodepth_batch=32 --iodepth_batch_complete_min=32 &
	batch=$!
	sleep 3
	repeat 2 nvme_reset
	# What is in flight takes some four seconds on this disk, and whoever dispatches waits two; 32 waits would be a minute.
	[ $longest -le 20000 ] || why="$why; the reset took too long"
	await 60 $batch "the batches" || why="$why; the batches hang"
}

# With all slots but 80 held for ever, nothing takes longer than it does without throttling, but for the stall timeout.
group_bounded() {
	local what mode modes="off on" worst_off
	plan 6
	throttling || modes=off
	hold $(($(stat io_tlb_nslabs) - 80)) || { not_ok "hold the pool" "not possible"; finish; }
	for what in nvme_reset nvme_rescan nvme_queues nvme_admin "nvme_passthrough 4" cpu_cycle; do
		for mode in $modes; do
			if [ $mode = off ]; then knob throttle_high 100; else knob throttle_high 70; fi
			why=
			# Of the smallest requests: others may have left no room for a larger one, and then it waits for ever.
			fio_start bounded --group_reporting --time_based --runtime=7 $raw --ioengine=psync --rw=randread --bs=4k --numjobs=64 --thread
			repeat 3 $what
			fio_end bounded 60 || why="$why; the load hangs"
			[ "$errors" = 0 ] || why="$why; $errors fio errors"
			[ $mode = on ] || worst_off=$longest
		done
		[ $longest -le $((worst_off + $(knob throttle_stall_ms))) ] || why="$why; too long"
		if [ -z "$why" ]; then
			ok "bounded: $what" "longest without throttling $worst_off ms, with $longest ms"
		else
			not_ok "bounded: $what" "${why#; }: longest without throttling $worst_off ms, with $longest ms"
		fi
	done
	knob throttle_high 70
	hold_end
}

group_$group
finish
