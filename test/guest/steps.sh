# Sourced after lib.sh: the disk, loads for it, and what may be done to it while they run.

name=$(nvme_disk 0) && ctrl=$(nvme_ctrl 0) && pci=$(nvme_pci 0) || exit 1
disk=/dev/$name
queue=/sys/block/$name/queue
raw="--filename=$disk --direct=1"
# Requests may be merged up to here.
max_kib=$(cat $queue/max_sectors_kb)
small="--bs=8k --iodepth=32 --numjobs=16"
large="--bs=64k --iodepth=64 --numjobs=2"
# Written, read back soon after, compared. A job that has written enough to read it back, or begins anew, waits for its last
# request, so more of them keep the queue full.
verified="$looped --rw=randwrite"
small_verified="$verified --verify_backlog=64 --bs=8k --iodepth=32 --numjobs=32 --size=4m --offset_increment=4m"
large_verified="$verified --verify_backlog=32 --bs=64k --iodepth=64 --numjobs=8 --size=8m --offset_increment=8m"
batch="--iodepth_batch=32 --iodepth_batch_complete_min=32"

# The host's name for the virtio disk, which comes after the others.
virtio=d$(ls -d /sys/class/nvme/nvme* | wc -l)

# repeat COUNT COMMAND...: with a moment in between, for the load to be at work again.
repeat() {
	local count=$1
	shift
	longest=0
	while [ $count -gt 0 ]; do
		sleep 1
		"$@"
		count=$((count - 1))
	done
	note="longest step $longest ms"
}

# hold SLOTS: others take so many slots and keep them, readers of a virtio disk that has stopped.
hold() {
	local bs=64k stuck=0 used before disk=
	for disk in /sys/block/vd*; do :; done
	disk=/dev/${disk##*/}
	host block_set_io_throttle $virtio 1 0 0 0 0 0 || return
	holders=
	while used=$(stat io_tlb_used) && [ "$used" -lt "$1" ]; do
		# Large ones find no room near the end, and who finds none takes it from the load later.
		[ $(($1 - used)) -ge 200 ] || bs=4k
		dd if=$disk of=/dev/null bs=$bs count=1 skip=$stuck iflag=direct 2>/dev/null &
		holders="$holders $!"
		before=0
		while [ "$(stat io_tlb_used)" = "$used" ] && [ $before -lt 100 ]; do
			usleep 20000
			before=$((before + 1))
		done
		stuck=$((stuck + 1))
		[ $stuck -lt 400 ] || { tell "cannot hold $1 slots, got $used"; return 1; }
	done
	# That many are not the load's.
	held=$used
	tell "others hold $held of $(stat io_tlb_nslabs) slots"
}
hold_end() {
	host block_set_io_throttle $virtio 0 0 0 0 0 0 || return
	wait $holders
	held=0
}

nvme_reset() { attempted 60 set_to /sys/class/nvme/$ctrl/reset_controller 1; }
nvme_rescan() { attempted 60 set_to /sys/class/nvme/$ctrl/rescan_controller 1; }
nvme_format() { attempted 60 nvme format /dev/$ctrl -n 1 --force; }
# A polled queue more or less changes how many there are of the others.
nvme_queues() {
	local polled=/sys/module/nvme/parameters/poll_queues
	echo $((1 - $(cat $polled))) >$polled
	nvme_reset
}
nvme_admin() {
	attempted 20 nvme id-ctrl /dev/$ctrl >/dev/null
	attempted 20 nvme id-ns $disk >/dev/null
	attempted 20 nvme smart-log /dev/$ctrl >/dev/null
}
# nvme_passthrough [KIB]
nvme_passthrough() {
	local kib=${1:-64}
	attempted 20 nvme read $disk -s 0 -c $((kib * 2 - 1)) -z $((kib * 1024)) -d /tmp/passthrough >/dev/null
	[ "$(wc -c </tmp/passthrough)" = $((kib * 1024)) ] || why="$why; the passthrough read is short"
}
# polled_load SECONDS [ARGS...]: what polling reads, beside other loads; $polled_reads says how many.
polled_load() {
	local runtime=$1
	shift
	polled_reads=0
	if bounded 60 fio --name=polled --output=$results/polled.fio.json --output-format=json --eta=never --time_based --runtime=$runtime \
		$raw --ioengine=io_uring --hipri=1 --bs=64k --iodepth=16 --rw=randread "$@"; then
		polled_reads=$(fio_json polled | jq -r '.jobs[0].read.total_ios')
	fi
	[ "${polled_reads:-0}" -gt 0 ] || why="$why; nothing was read by polling"
}
cpu_cycle() {
	attempted 60 set_to /sys/devices/system/cpu/cpu1/online 0
	sleep 1
	attempted 60 set_to /sys/devices/system/cpu/cpu1/online 1
}
# A character on the serial line, sent by the host three seconds from now, ends the idling.
suspend() {
	if [ -z "$serial" ]; then
		sleep 100000 </dev/ttyS0 &
		serial=$!
		echo enabled >/sys/class/tty/ttyS0/power/wakeup
	fi
	tell "host 0 wake 3"
	attempted 60 set_to /sys/power/state freeze
}
serial=

# The disk is back, under whatever name, and can be read.
disk_back() {
	local t=0
	echo 1 >/sys/bus/pci/rescan
	until name=$(nvme_disk 0 quietly) && [ -b /dev/$name ]; do
		t=$((t + 1))
		[ $t -le 100 ] || { why="$why; the disk is not back"; return 1; }
		usleep 200000
	done
	ctrl=${name%n1}
	disk=/dev/$name
	queue=/sys/block/$name/queue
	raw="--filename=$disk --direct=1"
	bounded 30 dd if=$disk of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null || why="$why; the disk cannot be read"
}
nvme_remove() {
	sleep 2
	attempted 60 set_to /sys/bus/pci/devices/$pci/remove 1
}
gone() {
	local t=0
	while [ -e /sys/bus/pci/devices/$pci ]; do
		t=$((t + 1))
		[ $t -le 600 ] || return 1
		usleep 100000
	done
}
