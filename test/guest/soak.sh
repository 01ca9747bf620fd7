# usage: soak.sh SEED SECONDS
. /test/lib.sh
seed=$1
expect=throttling
throttling || { tell "this kernel has no swiotlb throttling"; exit 1; }
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
. /test/steps.sh
tell "# seed $seed"

# roll N: $rolled is one of 0 to N-1, the same for the same seed. Not for a sub-shell.
roll() {
	seed=$(((seed * 1103515245 + 12345) % 2147483648))
	rolled=$(((seed >> 12) % $1))
}
# choose WORD...: $chosen
choose() {
	roll $#
	shift $rolled
	chosen=$1
}

# A valid setting of all tunables, in an order in which no step is invalid.
tune() {
	local high low stall
	roll 60
	high=$((rolled + 40))
	roll $high
	low=$rolled
	roll 1900
	stall=$((rolled + 100))
	knob throttle_low 0
	knob throttle_high $high
	knob throttle_low $low
	knob throttle_stall_ms $stall
	tuned="high $high low $low stall $stall"
}
untune() {
	knob throttle_low 0
	knob throttle_high 70
	knob throttle_low 65
	knob throttle_stall_ms 1000
}
events() {
	local n=$1
	while [ $n -gt 0 ]; do
		n=$((n - 1))
		roll 1500
		usleep $((rolled * 1000))
		choose $kinds
		did="$did $chosen"
		$chosen
	done
}
scheduler() {
	choose none mq-deadline kyber bfq
	set_to $queue/scheduler $chosen
}
# nvme_queues takes the polled queue away by turns.
polled() {
	[ "$(cat $queue/io_poll)" = 0 ] || polled_load 3
}
shorten() { knob throttle_high 30; usleep 300000; knob throttle_high 70; }

kinds="nvme_reset nvme_reset nvme_queues nvme_rescan nvme_admin nvme_passthrough cpu_cycle tune tune untune scheduler polled shorten"
start=$(now_ms)
round=0 bad=0 all_maps=0 all_failed=0 all_throttled=0 all_timed_out=0 worst=0
longest=0
plan 1
while [ $(($(now_ms) - start)) -lt $(($2 * 1000)) ]; do
	round=$((round + 1))
	why='' did='' fails=''
	first_seed=$seed
	meta=$(with_metadata 1)
	choose "$raw" "$raw" "$meta --direct=1"
	target=$chosen
	mixed=--rw=randrw where=
	# Two writes of one block at a time may tear there: QEMU writes data and metadata one after the other.
	[ "$target" = "$raw" ] || mixed=--rw=randread where=" with metadata"
	choose "$small $batch" "$large $batch" "$large" "--bs=128k --iodepth=32 --numjobs=3" "--bs=4k --iodepth=128 --numjobs=4"
	load=$chosen
	choose io_uring libaio
	load="--ioengine=$chosen $load"
	again="$verified --verify_backlog=128 --size=8m --offset_increment=8m"
	choose "$again" "$again" --rw=randread $mixed
	load="$load $chosen"
	roll 4
	hold=
	if [ $rolled = 0 ]; then
		roll 900
		hold=$((rolled + 1000))
		hold $hold || why="$why; nobody holds the pool"
	fi
	roll 12
	[ $rolled != 0 ] || [ "$target" != "$raw" ] || fails=yes
	roll 8
	runtime=$((rolled + 4))
	measure_start
	fio_start soak --group_reporting --time_based --runtime=$runtime $target $load
	roll 5
	if [ "$fails" ]; then
		did=" nvme_remove"
		nvme_remove
	else
		events $((rolled + 1))
	fi
	fio_end soak 90 || why="$why; hang"
	measure_end
	untune
	if [ "$fails" ]; then disk_back; elif [ "$errors" != 0 ]; then why="$why; $errors fio errors ($fio_said)"; fi
	[ -z "$hold" ] || hold_end
	set_to $queue/scheduler none
	settled || why="$why; $(stat io_tlb_used) slots in use and $(stat throttle_charged) charged after it"
	[ "$(stat throttle_waiting)" = 0 ] || why="$why; somebody still waits"
	all_maps=$((all_maps + maps)) all_failed=$((all_failed + failed_maps)) all_throttled=$((all_throttled + throttled))
	all_timed_out=$((all_timed_out + timed_out)) worst=$((longest_wait_ms > worst ? longest_wait_ms : worst))
	tell "round $round (seed $first_seed): ${load%% --rw*}$where${hold:+, held $hold};$did; maps $maps failed $failed_maps throttled $throttled timed out $timed_out capped $capped longest wait $longest_wait_ms ms${why:+ BAD$why}"
	if [ -n "$why" ]; then
		bad=$((bad + 1))
		case $why in *hang*) break ;; esac
	fi
done
figures="$round rounds, $all_maps maps, $all_failed failed, $all_throttled throttled, $all_timed_out timed out, longest wait $worst ms"
if [ $bad = 0 ] && [ $all_throttled -gt 0 ]; then ok "soak" "$figures"; else not_ok "soak" "$bad bad rounds; $figures"; fi
finish
