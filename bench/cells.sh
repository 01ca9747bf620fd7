# Sourced: fio loads on pools of many sizes, one boot for each kernel and pool.

# DISK=storvsc takes a disk of the SCSI driver of Hyper-V's guests, played by test/fake_vmbus, instead of NVMe's.
# Letter O is D with throttling switched off, in the same boot and by turns with it: for one who has no time for A.
# run_cells NAME LETTERS POOLS CELLS SECONDS [ROUNDS]: POOLS in KiB, CELLS are lines "RW BLOCKSIZE DEPTH [HIGH [LOW]]".
# One line of JSON for each load in $work/NAME.jsonl; bench-NAME.json is written after each boot, with the fields that the filter
# $summary adds, if the caller sets it. The disk has DISK_MIB_S and DISK_IOPS, so that it and not the emulated CPU is what there
# is too little of.
run_cells() {
	local name=$1 letters=$2 pools=$3 seconds=$5 rounds=${6:-1} letter pool round guest n=0 all
	local cells=$4 mib_s=${DISK_MIB_S:-100} iops=${DISK_IOPS:-2000} args disk out
	case ${DISK:-nvme} in
	nvme | storvsc) ;;
	*) die "there is no disk '$DISK' to measure" "use DISK=nvme or DISK=storvsc" ;;
	esac
	mkdir -p "$work/$name"
	if [[ $letters = *O* ]]; then
		letters=${letters//O/}
		cells=$(sed 's/.*/& 100\n&/' <<<"$4")
	fi
	printf '%s\n' "$cells" >"$work/$name/cells"
	: >"$work/$name.jsonl"
	all=$((rounds * $(wc -w <<<"$letters") * $(wc -w <<<"$pools")))
	for letter in $letters; do
		vmlinux_of "$letter"
		[ "${DISK:-nvme}" = nvme ] || module_for "$vmlinux" "$TOP/test/fake_vmbus"
	done
	for round in $(seq "$rounds"); do
		for pool in $pools; do
			for letter in $letters; do
				n=$((n + 1))
				vmlinux_of "$letter"
				guest=bench-$name-$letter
				say "$name: boot $n of $all: pool of $pool KiB, $letter (${meaning[$letter]}), $(wc -l <<<"$cells") loads of $seconds s"
				disk=(-d "file=512M,mib_s=$mib_s,iops=$iops") args=()
				if [ "${DISK:-nvme}" = storvsc ]; then
					out=$(dirname "$vmlinux")
					disk=(-f "$out/fake_vmbus/fake_vmbus.ko" -f "$out/drivers/scsi/hv_storvsc.ko") args=(storvsc "$mib_s" "$iops")
				fi
				boot "$guest" -k "$vmlinux" -s -a "swiotlb=$((pool / 2)),force,track_hiwater ${GUEST_ARGS:-}" \
					-t $(((seconds + 60) * $(wc -l <<<"$cells") + 300)) "${disk[@]}" \
					-f "$work/$name/cells" -f "$bench/guest/cells.sh" shared.sh cells.sh "$seconds" "${args[@]}"
				join_fio "$results/$guest/share" | jq -c --arg letter "$letter" --argjson pool "$pool" --argjson round "$round" \
					--arg kernel "$(kernel_of "$guest")" --arg load "$(cut -d' ' -f1 /proc/loadavg)" \
					'{letter: (if .percent == 100 then "O" else $letter end), pool_kib: $pool, round: $round} + . + {kernel: $kernel, load: $load}' >>"$work/$name.jsonl"
				jq -s --argjson about "$(about "bench/${0##*/}")" --arg disk "$mib_s MiB/s, $iops IOPS" \
					"{about: \$about, disk: \$disk, rows: .} + (${summary:-null})" "$work/$name.jsonl" >"$results/bench-$name.json"
			done
		done
	done
}

# What the guest counted and what fio measured, a line for each load.
join_fio() {
	local line
	while read -r line; do
		# fio may print a warning before the JSON begins.
		sed -n '/^{/,$p' "$1/cell$(jq .cell <<<"$line").fio.json" | jq -c --argjson counted "$line" '
			[.jobs[] | .read, .write | select(.total_ios > 0)] as $d |
			([$d[].total_ios] | add // 0) as $ios |
			$counted + {ios: $ios,
			 mib_s: (([$d[].io_bytes] | add // 0) / ([$d[].runtime, 1] | max) * 1000 / 1048576 * 100 | round / 100),
			 p50_us: ([$d[].lat_ns.percentile["50.000000"] // 0] | max // 0 | . / 1000 | round),
			 p99_us: ([$d[].lat_ns.percentile["99.000000"] // 0] | max // 0 | . / 1000 | round),
			 p999_us: ([$d[].lat_ns.percentile["99.900000"] // 0] | max // 0 | . / 1000 | round),
			 max_us: ([$d[].lat_ns.max // 0] | max // 0 | . / 1000 | round),
			 errors: ([.jobs[] | (.total_err // 0) + (if .error != 0 then 1 else 0 end)] | add),
			 switches_per_io: ($counted.switches / ([$ios, 1] | max) * 1000 | round / 1000),
			 cpu_us_per_io: ($counted.busy_ticks * 10000 / ([$ios, 1] | max) | round)}'
	done <"$1/cells.jsonl"
}
