# A fio load for each line "RW BLOCKSIZE DEPTH [HIGH [LOW]]" of the file cells, two jobs each. Thresholds in percent; 100 is off.
# usage: cells.sh SECONDS [storvsc MIB_S IOPS]        a line of JSON each in cells.jsonl; fio's own figures stay beside it
. /test/lib.sh
seconds=$1
mib_s=${3:-} iops=${4:-}
fake=/sys/kernel/debug/fake_vmbus/0/disk0
if [ "${2:-}" = storvsc ]; then
	insmod $results/fake_vmbus.ko && insmod $results/hv_storvsc.ko || { tell "the modules cannot be loaded"; exit 1; }
	t=0
	until [ -b /dev/sda ]; do
		t=$((t + 1))
		[ $t -le 300 ] || { tell "the disk is not there"; exit 1; }
		usleep 100000
	done
	disk=/dev/sda
else
	disk=/dev/$(nvme_disk 0) || exit 1
fi
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan 1

# Not idle, and not idle for want of I/O.
busy_ticks() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

n=0
default_high=$(knob throttle_high)
default_low=$(knob throttle_low)
while read -r rw bs depth percent low; do
	knob throttle_low 0
	knob throttle_high "${percent:-$default_high}"
	knob throttle_low "${low:-$default_low}"
	if [ "$iops" ]; then
		# That disk has one limit; the lower of both for this size.
		kib_s=$((iops * ${bs%k}))
		echo $((kib_s < mib_s * 1024 ? kib_s : mib_s * 1024)) >$fake/kib_s
	fi
	n=$((n + 1))
	tell "cell $n: $rw $bs depth $depth${percent:+, high $percent}${low:+, low $low}"
	measure_start
	wakeups=$(stat throttle_wakeups)
	switches=$(context_switches)
	busy=$(busy_ticks)
	fio_start cell$n --group_reporting --filename=$disk --ioengine=io_uring --direct=1 --rw=$rw --bs=$bs \
		--iodepth=$depth --numjobs=2 --time_based --runtime=$seconds --norandommap --lat_percentiles=1
	sleep $seconds
	await $((seconds + 60)) $fio fio || { not_ok "$rw $bs depth $depth" "hang"; finish; }
	busy=$(($(busy_ticks) - busy))
	switches=$(($(context_switches) - switches))
	measure_end
	cat >>$results/cells.jsonl <<-JSON
	{"cell":$n,"percent":${percent:-null},"percent_low":${low:-null},"rw":"$rw","bs":"$bs","depth":$depth,"failed":$failed_maps,"maps":$maps,"missed":$missed,"hiwater":$used_hiwater,"high":$high,"slots":$(stat io_tlb_nslabs),"throttled":$throttled,"serialized":$serialized,"timed_out":$timed_out,"capped":$capped,"wakeups":$(($(stat throttle_wakeups) - wakeups)),"longest_ms":$longest_wait_ms,"switches":$switches,"busy_ticks":$busy}
	JSON
done <$results/cells
ok "all cells have run" "$n"
finish
