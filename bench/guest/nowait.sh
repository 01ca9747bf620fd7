# A full pool under io_uring, whose requests are REQ_NOWAIT: they sleep for slots (mode 0), or are refused and a worker
# waits for them (mode 1). Alone, and beside a task whose requests wait in any case.
# usage: nowait.sh ROUNDS SECONDS        one line of JSON a run in nowait.jsonl
. /test/lib.sh
rounds=$1
seconds=$2
param=/sys/module/nvme/parameters/test_nowait
[ -e $param ] || { tell "this kernel lacks bench/nowait.patch"; exit 1; }
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan 1

raw="--filename=/dev/$(nvme_disk 0) --direct=1 --rw=randread --bs=128k --time_based --runtime=$seconds --norandommap"
for round in $(seq "$rounds"); do
	for beside in no yes; do
		for mode in 0 1; do
			echo $mode >$param
			measure_start
			switches=$(context_switches)
			args="--name=ring --ioengine=io_uring --iodepth=32 --numjobs=2"
			[ $beside = no ] || args="$args --name=psync --new_group --ioengine=psync --numjobs=8 --thread"
			fio --output=$results/nowait.fio.json --output-format=json --eta=never --lat_percentiles=1 --group_reporting $raw $args &
			await $((seconds + 60)) $! fio || { not_ok "fio ends" "mode $mode"; finish; }
			switches=$(($(context_switches) - switches))
			measure_end
			fio_json nowait | jq -c \
				--argjson run "{\"round\":$round,\"mode\":$mode,\"beside\":\"$beside\",\"failed\":$failed_maps,\"maps\":$maps,\"throttled\":$throttled,\"timed_out\":$timed_out,\"capped\":$capped,\"hiwater\":$used_hiwater,\"high\":$high,\"switches\":$switches}" '
				def of($name): [.jobs[] | select(.jobname == $name).read] | first;
				$run + ([["ring", of("ring")], ["psync", of("psync")]] | map(select(.[1]) | {(.[0]): (.[1] | {ios: .total_ios, mib_s: (.bw / 1024),
					slat_us: (.slat_ns.mean / 1000), slat_max_us: (.slat_ns.max / 1000), lat_us: (.lat_ns.mean / 1000),
					p99_us: (.lat_ns.percentile["99.000000"] / 1000), max_us: (.lat_ns.max / 1000)})}) | add) +
					{errors: ([.jobs[].error] | add)}' >>$results/nowait.jsonl
		done
	done
done
ok "loads have run" "$(wc -l <$results/nowait.jsonl) runs"
finish
