# The sysctls, through /proc: what they take, what they refuse, and that a refusal changes nothing.
. /test/lib.sh

throttling || { tell "this kernel has no swiotlb throttling"; exit 1; }
plan 8

all() { (cd $knobs && grep . throttle_*) | tr '\n' ' '; }
before=$(all)

# refused NAME VALUE...: each value gets EINVAL, and all stays as it was.
refused() {
	local name=$1 value why=
	shift
	for value; do
		if echo "$value" >$knobs/$name 2>/tmp/error; then
			why="$why; '$value' was taken"
		elif ! grep -q 'Invalid argument' /tmp/error; then
			why="$why; '$value': $(cat /tmp/error)"
		fi
	done
	[ "$(all)" = "$before" ] || why="$why; now $(all)"
	if [ -z "$why" ]; then ok "$name refuses $*"; else not_ok "$name refuses $*" "${why#; }"; fi
}
low=$(knob throttle_low)
cap=$(knob throttle_cap_ms)
refused throttle_high -1 101 $((low - 1)) 7x x 99999999999
refused throttle_low -1 101 $(($(knob throttle_high) + 1)) x
refused throttle_stall_ms 0 -5 $((cap + 1)) x
refused throttle_cap_ms 0 $(($(knob throttle_stall_ms) - 1)) 10001 x

slots=$(stat io_tlb_nslabs)
knob throttle_low 20
knob throttle_high 40
if [ "$(stat throttle_high) $(stat throttle_low)" = "$((slots * 40 / 100)) $((slots * 20 / 100))" ]; then
	ok "a change moves the pool's thresholds" "$slots slots: $(stat throttle_high), $(stat throttle_low)"
else
	not_ok "a change moves the pool's thresholds" "$slots slots: $(stat throttle_high), $(stat throttle_low)"
fi

flags=$(flags_of $(nvme_disk 0))
case $flags in
*BLOCKING*) ok "the I/O queue of a disk that bounces may block" "$flags" ;;
*) not_ok "the I/O queue of a disk that bounces may block" "$flags" ;;
esac

# A kernel that is locked down lets nobody open a file of debugfs that is for anybody to write.
files=$(cd $tlb && ls | grep -c '^throttle_')
others=$(cd $tlb && find . -name 'throttle_*' ! -perm 400)
if [ "$files" -gt 5 ] && [ "$others" = ./throttle_longest_wait_reset ]; then
	ok "what is told can be read under lockdown" "$files files, to write only: $others"
else
	not_ok "what is told can be read under lockdown" "$files files, not to read only: $(echo $others)"
fi

# Each wait has its two events, and the times agree with the longest that is told. The disk is slow, for requests to wait.
waits=$tracing/instances/waits
mkdir $waits
echo 8192 >$waits/buffer_size_kb
measure_start
echo 1 >$waits/events/swiotlb/enable
run_fio traced 60 --filename=/dev/$(nvme_disk 0) --direct=1 --ioengine=libaio --rw=randread --bs=128k --iodepth=64 \
	--time_based --runtime=3
echo 0 >$waits/events/swiotlb/enable
measure_end
cp $waits/trace $results/trace
begun=$(grep -c 'swiotlb_throttle_begin: dev_name: .* slots=64 waiting=[1-9]' $results/trace)
ended=$(grep -c 'swiotlb_throttle_end: dev_name: .* slots=64 waited=[0-9]* ns \(admitted\|serialized\)$' $results/trace)
longest=$(sed -n 's/.*waited=\([0-9]*\) ns.*/\1/p' $results/trace | sort -n | tail -n 1)
longest=$(((${longest:-0} + 999999) / 1000000))
figures="$throttled waits, $begun begun and $ended ended in the trace, the longest $longest and $longest_wait_ms ms"
# The end is traced when the task runs again, the wait has ended a little before.
if [ "$throttled" -gt 0 ] && [ "$begun $ended" = "$throttled $throttled" ] && [ $longest -ge $longest_wait_ms ]; then
	ok "each wait is traced" "$figures"
else
	not_ok "each wait is traced" "$figures"
fi
finish
