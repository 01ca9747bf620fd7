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
# tasks may sleep inside the function at once.
failed='ret == 0xffffffffffffffff'
probe_start() {
	# The boot may stall that long on a busy machine, a load must not.
	echo 30 >/proc/sys/kernel/hung_task_timeout_secs
	echo 'r4096:rig/map swiotlb_tbl_map_single ret=$retval:x64' >$tracing/kprobe_events || return
	echo "hist:keys=ret if $failed" >$tracing/events/rig/map/trigger
}
# Appended: opening the file for writing from its start would take the trigger away.
probe_reset() { echo "hist:keys=ret:clear if $failed" >>$tracing/events/rig/map/trigger; }
failed_maps() { awk '$1 == "Hits:" { n = $2 } END { print n + 0 }' $tracing/events/rig/map/hist; }
# All maps, and those that the probe did not see, since it was set.
maps_seen() { awk '$1 == "map" { print $2 }' $tracing/kprobe_profile; }
maps_missed() { awk '$1 == "map" { print $3 }' $tracing/kprobe_profile; }

# nvme_disk N: the name of the host's disk N; controllers come up in any order.
nvme_disk() {
	local c
	for c in /sys/class/nvme/nvme*; do
		[ "$(tr -d ' ' <"$c/serial")" = "rig$1" ] && echo "${c##*/}n1" && return
	done
	tell "disk $1 is not there"
	return 1
}

# bounded SECONDS COMMAND...: run it, and when it does not end in time show who is blocked and give up on it.
# Status 124 says so; its processes may still be there, in a sleep that no signal ends.
bounded() {
	local limit=$1 t=0 pid
	shift
	"$@" &
	pid=$!
	while kill -0 $pid 2>/dev/null; do
		if [ $t -ge $((limit * 5)) ]; then
			tell "hang: '$1' has not ended within $limit s; blocked tasks and CPUs follow"
			echo w >/proc/sysrq-trigger
			echo l >/proc/sysrq-trigger
			kill -9 $pid 2>/dev/null
			killall -9 fio 2>/dev/null
			return 124
		fi
		usleep 200000
		t=$((t + 1))
	done
	wait $pid
}

# The counters at the start of a measurement.
measure_start() {
	seen0=$(maps_seen)
	missed0=$(maps_missed)
	throttled0=$(stat throttle_throttled)
	serialized0=$(stat throttle_serialized)
	timed_out0=$(stat throttle_timed_out)
	capped0=$(stat throttle_capped)
	echo 0 >$tlb/io_tlb_used_hiwater
	[ ! -e $tlb/throttle_longest_wait_ms ] || echo 0 >$tlb/throttle_longest_wait_ms
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

# run_fio NAME LIMIT ARGS...: sets mib_s, p50_us, p99_us, ios, reads, errors from fio's JSON, which stays in the results.
run_fio() {
	local name=$1 limit=$2 status=0
	shift 2
	bounded "$limit" fio --name="$name" --output="$results/$name.fio.json" --output-format=json \
		--group_reporting --eta=never --exitall_on_error --randrepeat=1 "$@" || status=$?
	mib_s=0 p50_us=0 p99_us=0 errors=1 reads=0
	[ $status != 124 ] || return 124
	# fio may print a warning before the JSON begins.
	eval "$(sed -n '/^{/,$p' "$results/$name.fio.json" | jq -r '
		[.jobs[] | .read, .write | select(.total_ios > 0)] as $d |
		"mib_s=\([$d[].bw_bytes] | add // 0 | . / 1048576 | round)",
		"p50_us=\([$d[].clat_ns.percentile["50.000000"] // 0] | max // 0 | . / 1000 | round)",
		"p99_us=\([$d[].clat_ns.percentile["99.000000"] // 0] | max // 0 | . / 1000 | round)",
		"errors=\([.jobs[] | (.total_err // 0) + (if .error != 0 then 1 else 0 end)] | add)",
		"reads=\([.jobs[].read.total_ios] | add // 0)",
		"ios=\([$d[].total_ios] | add // 0)"' 2>/dev/null || echo 'errors=1 ios=0')"
	[ $status = 0 ] || [ "$errors" -gt 0 ] || errors=1
	[ "${ios:-0}" -gt 0 ] || errors=$((errors + 1))
	return 0
}
