# Sourced by the guest's test scripts (busybox sh): results, exact counts, pool statistics, fio.
# Results go to /dev/kmsg, a line at a time, so that they stand in order among the kernel's own messages;
# the host takes the lines that begin with "rig: ".

tracing=/sys/kernel/tracing
tlb=/sys/kernel/debug/swiotlb
knobs=/proc/sys/kernel/swiotlb
results=/results
nr=0
failures=0

tell() { echo "rig: $*" >/dev/kmsg; }
plan() { tell "1..$1"; }

# ok|not_ok NAME [FIGURES]
ok() {
	nr=$((nr + 1))
	tell "ok $nr - $1${2:+ # $2}"
}
not_ok() {
	nr=$((nr + 1))
	failures=$((failures + 1))
	tell "not ok $nr - $1${2:+ # $2}"
}
finish() { exit $((failures > 0)); }

throttling() { [ -e $knobs/throttle_high ]; }

# knob NAME [VALUE]: nothing happens, and 0 is read, where the kernel does not throttle.
knob() {
	[ -e "$knobs/$1" ] || { [ $# -gt 1 ] || echo 0; return 0; }
	if [ $# -gt 1 ]; then echo "$2" >"$knobs/$1"; else cat "$knobs/$1"; fi
}

# stat NAME: a figure of the default pool, 0 where it is not kept.
stat() { cat "$tlb/$1" 2>/dev/null || echo 0; }

# A kretprobe sees every map; a histogram keyed by the return value counts those that failed. 4096 instances: many
# tasks may sleep inside the function at once. Not those with DMA_ATTR_NO_WARN: pieces of a request that is undone then
# and mapped again. Its last attempt comes without that.
failed='ret == 0xffffffffffffffff && !(attrs & 0x100)'
probe_start() {
	# The boot may stall that long on a busy machine, a load must not.
	echo 30 >/proc/sys/kernel/hung_task_timeout_secs
	echo 'r4096:rig/map swiotlb_tbl_map_single ret=$retval:x64 attrs=+0($arg6):x64' >$tracing/kprobe_events || return
	echo "hist:keys=ret if $failed" >$tracing/events/rig/map/trigger
}
# Appended: opening the file for writing from its start would take the trigger away.
probe_reset() { echo "hist:keys=ret:clear if $failed" >>$tracing/events/rig/map/trigger; }
failed_maps() { awk '$1 == "Hits:" { n = $2 } END { print n + 0 }' $tracing/events/rig/map/hist; }
# All maps, and those that the probe did not see, since it was set.
maps_seen() { awk '$1 == "map" { print $2 }' $tracing/kprobe_profile; }
maps_missed() { awk '$1 == "map" { print $3 }' $tracing/kprobe_profile; }

# nvme_disk N [quietly]: the name of the host's disk N; controllers come up in any order.
nvme_disk() {
	local c
	for c in /sys/class/nvme/nvme*; do
		[ "$(tr -d ' ' <"$c/serial")" = "rig$1" ] && echo "${c##*/}n1" && return
	done
	[ -n "${2:-}" ] || tell "disk $1 is not there"
	return 1
}

# with_metadata N: fio's options for a disk of 256 MiB with metadata of its own, but for its end. QEMU keeps the metadata
# behind the data: the block of the image where they meet counts as written with the first of the metadata, and what was
# never written of the data then fails as if its tags were wrong.
with_metadata() {
	local disk
	disk=$(nvme_disk "$1") && echo "--filename=/dev/$disk --size=224m"
}

# nvme_ctrl N, nvme_pci N: its controller, as nvme0; its PCI device, as 0000:00:04.0.
nvme_ctrl() {
	local disk
	disk=$(nvme_disk "$1") && echo "${disk%n1}"
}
nvme_pci() {
	local ctrl
	ctrl=$(nvme_ctrl "$1") && basename "$(readlink -f /sys/class/nvme/$ctrl/device)"
}

# host COMMAND...: QEMU's monitor is told.
hosted=0
held=0
host() {
	local t=0
	hosted=$((hosted + 1))
	tell "host $hosted $*"
	until [ -e $results/host.$hosted ]; do
		t=$((t + 1))
		[ $t -le 600 ] || { tell "the host has not heard: $*"; return 1; }
		usleep 50000
	done
}

# await SECONDS PID WHAT: wait for a child, and when it does not end in time show who is blocked and give up on it.
# Status 124 says so; its processes may still be there, in a sleep that no signal ends.
await() {
	local limit=$1 pid=$2 t=0
	while kill -0 $pid 2>/dev/null; do
		if [ $t -ge $((limit * 20)) ]; then
			tell "hang: '$3' has not ended within $limit s; blocked tasks and CPUs follow"
			echo w >/proc/sysrq-trigger
			echo l >/proc/sysrq-trigger
			kill -9 $pid 2>/dev/null
			killall -9 fio 2>/dev/null
			return 124
		fi
		usleep 50000
		t=$((t + 1))
	done
	wait $pid
}

# bounded SECONDS COMMAND...
bounded() {
	local limit=$1
	shift
	"$@" &
	await "$limit" $! "$1"
}

context_switches() { awk '$1 == "ctxt" { print $2 }' /proc/stat; }
now_ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }

# timed SECONDS COMMAND...: bounded, and how long it took in ms.
timed() {
	local begin status=0
	begin=$(now_ms)
	bounded "$@" || status=$?
	ms=$(($(now_ms) - begin))
	return $status
}

# attempted LIMIT COMMAND...: a step; it has to work, in that time.
attempted() {
	timed "$@" || why="$why; '$2 $3 $4' failed"
	longest=$((ms > longest ? ms : longest))
}
set_to() { echo "$2" >"$1"; }

# flags_of DISK: those of its first queue.
flags_of() { cat /sys/kernel/debug/block/${1#/dev/}/hctx0/flags; }

# The counters at the start of a measurement.
measure_start() {
	seen0=$(maps_seen)
	missed0=$(maps_missed)
	throttled0=$(stat throttle_throttled)
	serialized0=$(stat throttle_serialized)
	timed_out0=$(stat throttle_timed_out)
	capped0=$(stat throttle_capped)
	echo 0 >$tlb/io_tlb_used_hiwater
	[ ! -e $tlb/throttle_longest_wait_reset ] || echo 0 >$tlb/throttle_longest_wait_reset
	probe_reset
}

# What happened since, in variables named as in demo.json.
measure_end() {
	failed_maps=$(failed_maps)
	maps=$(($(maps_seen) - seen0))
	missed=$(($(maps_missed) - missed0))
	used_hiwater=$(stat io_tlb_used_hiwater)
	high=$(stat throttle_high)
	throttled=$(($(stat throttle_throttled) - throttled0))
	serialized=$(($(stat throttle_serialized) - serialized0))
	timed_out=$(($(stat throttle_timed_out) - timed_out0))
	capped=$(($(stat throttle_capped) - capped0))
	waiting=$(stat throttle_waiting)
	longest_wait_ms=$(stat throttle_longest_wait_ms)
}

# fio_start NAME ARGS...: in the background; its process is $fio. The JSON stays in the results.
fio_start() {
	local name=$1
	shift
	fio --name="$name" --output="$results/$name.fio.json" --output-format=json \
		--eta=never --exitall_on_error --randrepeat=1 "$@" &
	fio=$!
}

# fio_json NAME: what fio wrote; a warning may stand before the JSON.
fio_json() { sed -n '/^{/,$p' "$results/$1.fio.json"; }

# fio_end NAME LIMIT: wait for it; sets mib_s, p50_us, p99_us, ios, reads, errors, and then fio_said. Status 124: it hangs.
fio_end() {
	local name=$1 status=0
	await "$2" $fio fio || status=$?
	mib_s=0 p50_us=0 p99_us=0 errors=1 reads=0
	[ $status != 124 ] || return 124
	eval "$(fio_json "$name" | jq -r '
		[.jobs[] | .read, .write | select(.total_ios > 0)] as $d |
		"mib_s=\(([$d[].io_bytes] | add // 0) / ([$d[].runtime, 1] | max) * 1000 / 1048576 | round)",
		"p50_us=\([$d[].clat_ns.percentile["50.000000"] // 0] | max // 0 | . / 1000 | round)",
		"p99_us=\([$d[].clat_ns.percentile["99.000000"] // 0] | max // 0 | . / 1000 | round)",
		"errors=\([.jobs[] | (.total_err // 0) + (if .error != 0 then 1 else 0 end)] | add)",
		"reads=\([.jobs[].read.total_ios] | add // 0)",
		"ios=\([$d[].total_ios] | add // 0)"' 2>/dev/null || echo 'errors=1 ios=0')"
	[ $status = 0 ] || [ "$errors" -gt 0 ] || errors=1
	[ "${ios:-0}" -gt 0 ] || errors=$((errors + 1))
	[ "$errors" = 0 ] ||
		fio_said="status $status: $(sed -n '/^{/q; /[^ ]/p' "$results/$name.fio.json" | head -n 2 | tr '\n#' ' .')"
	return 0
}

# run_fio NAME LIMIT ARGS...
run_fio() {
	local name=$1 limit=$2
	shift 2
	fio_start "$name" --group_reporting "$@"
	fio_end "$name" "$limit"
}

# For loads whose data is verified. They end by time, but do not go by it: fio would start the next pass while blocks of the
# last one are in flight, which tears those that are split on their way to the disk, and would not look for lost writes.
looped="--time_based=0 --loops=1000000 --verify=crc32c --verify_fatal=1 --verify_dump=1 --aux-path=$results"

# What a scenario expects, apart from the load's arguments. Back to this after each.
defaults() {
	step=			# a function to run beside the load; what goes wrong there it adds to $why
	request_kib=128		# the largest request of the load
	waits=yes		# somebody has to be throttled; "perhaps": not necessarily
	read_back=		# "yes": data has to be read, or nothing was verified
	stalls=			# "yes": the disk stops, so waits may time out and maps fail
	overfull=		# "yes": others hold more than high
	fails=			# "yes": the disk goes away, so the load ends with an error
	others=			# "yes": another load goes on, and may have somebody waiting
	note=			# figures of its own
}
defaults

# attempt NAME SECONDS ARGS...: run the load and measure; a hang ends it all.
attempt() {
	local name=$1 runtime=$2 file
	shift 2
	file=$(echo "$name" | tr ' ,' '__')
	measure_start
	fio_start "$file" --group_reporting --time_based --runtime="$runtime" "$@"
	[ -z "$step" ] || $step
	if fio_end "$file" $((runtime + ${PATIENCE:-60})); then
		measure_end
	else
		measure_end
		not_ok "$name" "hang; failed $failed_maps, used $(stat io_tlb_used), waiting $waiting"
		finish
	fi
}

# settled: all that was taken has been given back.
settled() {
	local t=0
	while [ "$(stat io_tlb_used)" -gt "$held" ] ||
	      { throttling && [ "$(stat throttle_charged)" != "$(stat io_tlb_used)" ]; }; do
		t=$((t + 1))
		[ $t -le 50 ] || return 1
		usleep 100000
	done
}

# asked_for NAME: RIG_ONLY, a pattern, does not leave it out.
asked_for() {
	case $(echo "$1" | tr ' ,' '__') in
	${RIG_ONLY:-*}) ;;
	*) return 1 ;;
	esac
}

# left_out NAME TEST: so is a test of what the load NAME did.
left_out() {
	asked_for "$1" && return 1
	ok "$2 # SKIP not asked for"
}

# scenario NAME SECONDS ARGS...: one load as set up by the variables of defaults().
scenario() {
	local name=$1 runtime=$2 figures one
	shift 2
	why=
	! left_out "$name" "$name" || { defaults; return; }
	# Buffers are whole pages here, so a request takes its size in slots; two more for its metadata.
	one=$((request_kib / 2 + 2))
	# Admin commands never wait, and what others hold leaves them nothing below the threshold: three slots each.
	unadmitted=0
	[ -z "$overfull" ] || unadmitted=8
	attempt "$name" "$runtime" "$@"
	if [ "$expect" = throttling ] && [ "$throttled$failed_maps$waits" = 00yes ]; then
		tell "$name: the pool did not fill (busy machine?), again for $((runtime * 4)) s"
		why=
		attempt "$name" $((runtime * 4)) "$@"
	fi
	figures="failed $failed_maps of $maps maps, hiwater $used_hiwater, high $high, throttled $throttled, serialized $serialized, timed out $timed_out, capped $capped, longest wait $longest_wait_ms ms, $mib_s MiB/s, p99 $p99_us us${note:+, $note}"
	if [ "$fails" ]; then
		[ "$errors" != 0 ] || why="$why; the load went on without its disk"
	else
		[ "$errors" = 0 ] || why="$why; $errors fio errors ($fio_said)"
	fi
	[ "$missed" = 0 ] || why="$why; the probe missed $missed maps"
	[ "$maps" -gt 0 ] || why="$why; nothing was mapped"
	[ "$reads" -gt 0 ] || [ -z "$read_back" ] || why="$why; nothing was read back"
	[ "$others" ] || settled || why="$why; $(stat io_tlb_used) slots in use and $(stat throttle_charged) charged after it"
	if [ "$expect" = throttling ]; then
		if [ -z "$stalls" ]; then
			[ "$failed_maps" = 0 ] || why="$why; $failed_maps failed maps"
			[ "$timed_out" = 0 ] || why="$why; $timed_out waits timed out"
			[ "$capped" = 0 ] || why="$why; $capped waits reached the cap"
			[ "$used_hiwater" -le $(((held > high ? held : high) + one + unadmitted)) ] || why="$why; hiwater above high + one request ($one)"
		fi
		[ "$waiting" = 0 ] || [ "$others" ] || why="$why; $waiting still waiting"
		[ "$throttled" -gt 0 ] || [ "$waits" != yes ] || why="$why; nobody was throttled"
	fi
	if [ -z "$why" ]; then ok "$name" "$figures"; else not_ok "$name" "${why#; }: $figures"; fi
	defaults
}
