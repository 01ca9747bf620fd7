# The demo's load, in phases that alternate throttling off and on in one boot.
# usage: demo.sh SECONDS ROUNDS        one line of JSON a phase in demo.jsonl
. /test/lib.sh
seconds=$1
rounds=$2
default_high=$(knob throttle_high)

modes="off on"
throttling || modes=off

disk=/dev/$(nvme_disk 0) || exit 1
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan $((rounds * $(echo $modes | wc -w)))

phase=0
for round in $(seq "$rounds"); do
	for mode in $modes; do
		phase=$((phase + 1))
		if [ $mode = off ]; then knob throttle_high 100; else knob throttle_high "$default_high"; fi
		tell "phase $phase: throttling $mode, $seconds s"
		measure_start
		run_fio "phase$phase" $((seconds + 60)) --filename=$disk --ioengine=io_uring --direct=1 \
			--rw=randread --bs=128k --iodepth=64 --numjobs=2 --time_based --runtime="$seconds" ||
			{ not_ok "phase $phase, throttling $mode" "hang"; finish; }
		measure_end
		cat >>$results/demo.jsonl <<-JSON
		{"phase":$phase,"throttling":"$mode","failed_maps":$failed_maps,"used_hiwater":$used_hiwater,"high":$high,"mib_s":$mib_s,"p50_us":$p50_us,"p99_us":$p99_us,"throttled":$throttled,"serialized":$serialized,"timed_out":$timed_out,"capped":$capped,"longest_wait_ms":$longest_wait_ms,"errors":$errors,"maps":$maps,"maps_missed":$missed,"nslabs":$(stat io_tlb_nslabs)}
		JSON
		# A count that missed a map is none.
		if [ "$missed" = 0 ] && [ "$maps" -gt 0 ]; then
			ok "phase $phase, throttling $mode" "failed $failed_maps of $maps maps, $mib_s MiB/s"
		else
			not_ok "phase $phase, throttling $mode" "the probe missed $missed of $maps maps"
		fi
	done
done
finish
