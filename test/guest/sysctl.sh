# The sysctls, through /proc: what they take, what they refuse, and that a refusal changes nothing.
. /test/lib.sh

throttling || { tell "this kernel has no swiotlb throttling"; exit 1; }
plan 6

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
finish
