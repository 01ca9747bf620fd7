# A steady stream of packets between two network devices in both directions, without storage beside it and with.
# usage: network.sh SECONDS PACKETS_PER_MS ROUNDS        one line of JSON a phase in network.jsonl
. /test/lib.sh
seconds=$1
rate=$2
rounds=$3
disk=/dev/$(nvme_disk 0) || exit 1
plan 1

# Failed maps by device.
echo 'r4096:rig/map swiotlb_tbl_map_single ret=$retval:x64 attrs=+0($arg6):x64 name=+0(+0($arg1)):string' >$tracing/kprobe_events &&
	echo "hist:keys=name if $failed" >$tracing/events/rig/map/trigger || { tell "the probe cannot be set"; exit 1; }
reset() { echo "hist:keys=name:clear if $failed" >>$tracing/events/rig/map/trigger; }
failed_of() {
	awk -v dev="$1" '/name:/ && index($0, dev) { sub(/.*hitcount: */, ""); n += $1 } END { print n + 0 }' $tracing/events/rig/map/hist
}
pci_of() { basename "$(readlink -f /sys/class/net/$1/device/..)"; }
count_of() { cat /sys/class/net/$1/statistics/$2; }

nvme=$(nvme_pci 0)
net0=$(pci_of eth0)
net1=$(pci_of eth1)
# Both devices are up, with their rings full, before anything is measured.
$results/flood eth0 eth1 1 1000 1 >/dev/null && $results/flood eth1 eth0 1 1000 1 >/dev/null || { not_ok "packets are sent"; finish; }
tell "at rest $(stat io_tlb_used) of $(stat io_tlb_nslabs) slots are in use"
rest=$(stat io_tlb_used)

for round in $(seq "$rounds"); do
	for storage in no yes; do
		measure_start 2>/dev/null
		reset
		tx0=$(($(count_of eth0 tx_dropped) + $(count_of eth1 tx_dropped)))
		rx0=$(($(count_of eth0 rx_dropped) + $(count_of eth1 rx_dropped)))
		mib_s=0 p99_us=0
		[ $storage = no ] || fio_start network$round --group_reporting --filename=$disk --ioengine=io_uring --direct=1 \
			--rw=randread --bs=128k --iodepth=256 --numjobs=2 --time_based --runtime=$((seconds + 4))
		$results/flood eth0 eth1 "$rate" 1400 "$seconds" >/tmp/a &
		a=$!
		$results/flood eth1 eth0 "$rate" 1400 "$seconds" >/tmp/b &
		wait $a $!
		[ $storage = no ] || fio_end network$round 60 || { not_ok "storage beside packets" "hang"; finish; }
		measure_end
		tx=$(($(count_of eth0 tx_dropped) + $(count_of eth1 tx_dropped) - tx0))
		rx=$(($(count_of eth0 rx_dropped) + $(count_of eth1 rx_dropped) - rx0))
		jq -s -c ". as \$f | {round: $round, storage: \"$storage\", rest: $rest, net_failed: $(($(failed_of $net0) + $(failed_of $net1))),
			nvme_failed: $(failed_of $nvme), tx_dropped: $tx, rx_dropped: $rx, hiwater: $used_hiwater, high: $high, slots: $(stat io_tlb_nslabs),
			throttled: $throttled, mib_s: $mib_s, sent: (\$f | map(.sent) | add), refused: (\$f | map(.refused) | add),
			received: (\$f | map(.received) | add), late: (\$f | map(.late) | add)}" /tmp/a /tmp/b >>$results/network.jsonl
	done
done
ok "packets beside storage" "$(wc -l <$results/network.jsonl) phases"
finish
