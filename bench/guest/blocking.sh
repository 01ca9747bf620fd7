# What BLK_MQ_F_BLOCKING costs where nobody has to wait: the same fio load with the flag off and on by turns.
# usage: blocking.sh ROUNDS REQUESTS        one line of JSON a run in blocking.jsonl, a line in `marks` for each mark
# A run of so many requests and one of three times as many: their difference has no start of fio in it.
. /test/lib.sh
rounds=$1
requests=$2
param=/sys/module/nvme_core/parameters/test_blocking
modes="0 1"
[ -e $param ] || modes=-1
plan 1

mark() { $results/mark && echo "$*" >>$results/marks; }

# Probed anew, the driver asks for its queues anew.
set_mode() {
	local pci t=0
	[ "$1" != -1 ] || return 0
	echo "$1" >$param
	pci=$(nvme_pci 0)
	echo "$pci" >/sys/bus/pci/drivers/nvme/unbind
	echo "$pci" >/sys/bus/pci/drivers/nvme/bind
	until [ -b "/dev/$(nvme_disk 0 quietly)" ]; do
		usleep 100000
		t=$((t + 1))
		[ $t -le 100 ] || return 1
	done
	usleep 500000
}

for round in $(seq "$rounds"); do
	for mode in $modes; do
		set_mode "$mode" || { not_ok "the disk comes back"; finish; }
		disk=/dev/$(nvme_disk 0)
		case $mode$(flags_of ${disk}) in
		0*BLOCKING*) not_ok "the flag is off"; finish ;;
		1*BLOCKING*) ;;
		1*) not_ok "the flag is on" "$(flags_of $disk)"; finish ;;
		esac
		for load in "psync 1" "io_uring 1" "io_uring 64"; do
			for times in 1 3; do
				n=$((requests * times))
				throttled0=$(stat throttle_throttled)
				mark "$round $mode ${load% *} ${load#* } $n begin"
				switches=$(context_switches)
				# In the foreground: whoever looks whether it has ended is counted, too.
				timeout 300 fio --name=blocking --output=$results/blocking.fio.json --output-format=json --eta=never --filename=$disk --direct=1 --rw=randread --bs=4k --ioengine=${load% *} \
					--iodepth=${load#* } --size=256m --io_size=$((n * 4))k --norandommap || { not_ok "fio fails or hangs"; finish; }
				switches=$(($(context_switches) - switches))
				mark "$round $mode ${load% *} ${load#* } $n end"
				eval "$(fio_json blocking | jq -r '"reads=\(.jobs[0].read.total_ios) errors=\(.jobs[0].error)"')"
				echo "{\"round\":$round,\"mode\":$mode,\"engine\":\"${load% *}\",\"depth\":${load#* },\"asked\":$n,\"ios\":$reads,\"switches\":$switches,\"errors\":$errors,\"throttled\":$(($(stat throttle_throttled) - throttled0)),\"flags\":\"$(flags_of $disk)\"}" >>$results/blocking.jsonl
			done
		done
	done
done
ok "loads have run" "$(wc -l <$results/blocking.jsonl) runs"
finish
