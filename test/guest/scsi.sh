# storvsc disks of a host that test/fake_vmbus plays, in guests whose pool is small.
# usage: scsi.sh GROUP SECONDS [measure]     (each load runs that long at least; "measure": expect only that it ends)
# The groups, and the pools and disks that each needs, are in test/scsi.
. /test/lib.sh
group=$1
seconds=$2
expect=${3:-throttling}

fake=/sys/kernel/debug/fake_vmbus
default_high=$(knob throttle_high)
# There is nobody who would make the nodes.
export DM_DISABLE_UDEV=1

if [ "$expect" = throttling ] && ! throttling; then
	tell "this kernel has no swiotlb throttling"
	exit 1
fi
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }

# scsi_disk CONTROLLER LUN: its name.
scsi_disk() {
	local d
	for d in /sys/block/sd*; do
		case $(readlink -f $d/device) in
		*/fa4e000$1-*/*:0:0:$2) echo ${d##*/}; return ;;
		esac
	done
	return 1
}
scsi_host() { ls -d /sys/bus/vmbus/devices/fa4e000$1-*/host* 2>/dev/null; }
# tune CONTROLLER LUN FILE VALUE, in all controllers' or disks' directories if that is "*".
tune() {
	local f
	for f in $fake/$1/disk$2/$3; do echo "$4" >$f; done
}
seen() { cat $fake/$1; }

# vmbus_start "FAKE ARGS" ["STORVSC ARGS"]: CONTROLLERS times DISKS disks, found and slow enough for their queues to stand.
controllers=1 disks=1 mib_s=16
vmbus_start() {
	local c l t=0
	insmod $results/fake_vmbus.ko controllers=$controllers disks=$disks $1 &&
		insmod $results/hv_storvsc.ko ${2:-} || { tell "the modules cannot be loaded"; exit 1; }
	for c in $(seq 0 $((controllers - 1))); do
		for l in $(seq 0 $((disks - 1))); do
			until d=$(scsi_disk $c $l) && [ -b /dev/$d ]; do
				t=$((t + 1))
				[ $t -le 300 ] || { tell "disk $l of controller $c is not there"; exit 1; }
				usleep 100000
			done
			eval "disk_$c$l=/dev/$d"
		done
	done
	# The scan has ended, too.
	usleep 500000
	tune '*' '*' kib_s $((mib_s * 1024 / disks / controllers))
}
# Nothing is left anywhere when the drivers are gone.
vmbus_end() {
	why=
	[ "$(cat $fake/*/refused | sort -n | tail -n 1)" = 0 ] || why="$why; $(cat $fake/*/refused | xargs) frames were no bounce buffers"
	[ "$(cat $fake/*/outstanding | sort -n | tail -n 1)" = 0 ] || why="$why; $(cat $fake/*/outstanding | xargs) commands outstanding"
	timed 60 rmmod hv_storvsc || why="$why; hv_storvsc stays"
	bounded 30 rmmod fake_vmbus || why="$why; fake_vmbus stays"
	settled || why="$why; $(stat io_tlb_used) slots in use"
	if [ -z "$why" ]; then ok "all is given back" "$ms ms"; else not_ok "all is given back" "${why#; }"; fi
}
# busy CONTROLLER LUN: the load has reached the disk.
busy() {
	local begin=$(($(seen $1/disk$2/reads) + $(seen $1/disk$2/writes))) t=0
	while [ $(($(seen $1/disk$2/reads) + $(seen $1/disk$2/writes) - begin)) -lt 100 ] && kill -0 $fio 2>/dev/null; do
		t=$((t + 1))
		[ $t -le 300 ] || { why="$why; the load does not begin"; return; }
		usleep 100000
	done
}
# crowded CONTROLLER LUN: and somebody sleeps in the map.
crowded() {
	local t=0
	busy $1 $2
	until [ "$(stat throttle_waiting)" -gt 0 ] || [ "$expect" != throttling ] || ! kill -0 $fio 2>/dev/null; do
		t=$((t + 1))
		[ $t -le 1000 ] || { why="$why; nobody waits"; return; }
		usleep 20000
	done
}
queue_of() { echo /sys/block/${1#/dev/}/queue; }
# What storvsc has allocated to send large commands, exactly: test/scsi asks the slab allocator to know its callers. KASAN
# keeps what is freed for a while, until the cache is shrunk.
payloads() {
	local f
	for f in /sys/kernel/slab/kmalloc-*/shrink; do [ ! -e $f ] || echo 1 >$f; done
	awk '$1 ~ /^[0-9]+$/ && $2 ~ /^storvsc_queuecommand/ { n += $1 } END { print n + 0 }' /sys/kernel/debug/slab/kmalloc-*/alloc_traces
}

# Written, read back soon after, compared: 4 MiB for each job.
verified="$looped --rw=randwrite --verify_backlog=64 --size=4m --offset_increment=4m"
sequential="$looped --rw=write --verify_backlog=16 --size=4m --offset_increment=4m"

group_io() {
	plan 13
	controllers=2 disks=2
	vmbus_start
	flags=$(flags_of $disk_00)
	case $flags in
	*BLOCKING*) ok "the queues may block" "$flags" ;;
	*) not_ok "the queues may block" "$flags" ;;
	esac
	channels=$(seen 0/channels)
	if [ "$channels" -gt 1 ]; then ok "there are sub-channels" "$channels channels"; else not_ok "there are sub-channels"; fi
	all=$disk_00:$disk_01:$disk_10:$disk_11
	max_kib=$(cat $(queue_of $disk_00)/max_sectors_kb)
	raw="--filename=$all --direct=1"

	# So slow that the guest's CPUs fill the pool with small requests.
	tune '*' '*' kib_s 384
	request_kib=4 read_back=yes
	scenario "4 KiB random, verified" $seconds $raw --ioengine=io_uring --bs=4k --iodepth=128 --numjobs=8 $verified
	tune '*' '*' kib_s 4096
	request_kib=64 read_back=yes
	scenario "64 KiB random, verified" $seconds $raw --ioengine=libaio --bs=64k --iodepth=32 --numjobs=8 $verified
	request_kib=$max_kib read_back=yes
	scenario "512 KiB sequential, verified" $seconds $raw --ioengine=io_uring --bs=512k --iodepth=8 --numjobs=8 $sequential
	request_kib=$max_kib read_back=yes
	scenario "4 to 512 KiB random, verified" $seconds $raw --ioengine=io_uring --bsrange=4k-512k --iodepth=16 --numjobs=8 $verified
	request_kib=64
	scenario "batches of 16" $seconds $raw --ioengine=io_uring --rw=randread --bs=64k --iodepth=64 --numjobs=2 \
		--iodepth_batch=16 --iodepth_batch_complete_min=8
	scenario "128 KiB, psync" $seconds $raw --ioengine=psync --rw=randread --bs=128k --numjobs=48 --thread
	for d in $disk_00 $disk_01 $disk_10 $disk_11; do set_to $(queue_of $d)/scheduler mq-deadline; done
	request_kib=$max_kib read_back=yes
	scenario "mq-deadline, verified" $seconds $raw --ioengine=libaio --bs=64k --iodepth=64 --numjobs=4 $verified
	for d in $disk_00 $disk_01 $disk_10 $disk_11; do set_to $(queue_of $d)/scheduler none; done

	# The same without throttling: storvsc tries again.
	knob throttle_high 100
	stalls=yes waits=perhaps read_back=yes request_kib=64
	scenario "not throttled, verified" $seconds $raw --ioengine=libaio --bs=64k --iodepth=32 --numjobs=8 $verified
	stalls=yes waits=perhaps
	scenario "not throttled" $seconds $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
	if [ "$failed_maps" -gt 100 ] || [ "$expect" != throttling ]; then ok "maps fail then" "$failed_maps of $maps"; else not_ok "maps fail then" "$failed_maps of $maps"; fi
	knob throttle_high "$default_high"
	vmbus_end
}

# A pool in which only a few requests have room.
group_small() {
	plan 4
	controllers=1 disks=2
	vmbus_start
	max_kib=$(cat $(queue_of $disk_00)/max_sectors_kb)
	raw="--filename=$disk_00:$disk_01 --direct=1"
	request_kib=64 read_back=yes
	scenario "64 KiB random, verified" $seconds $raw --ioengine=io_uring --bs=64k --iodepth=32 --numjobs=8 $verified
	request_kib=$max_kib read_back=yes
	scenario "512 KiB sequential, verified" $seconds $raw --ioengine=io_uring --bs=512k --iodepth=8 --numjobs=4 $sequential
	tune '*' '*' kib_s 1024
	request_kib=4 read_back=yes
	scenario "4 KiB random, verified" $seconds $raw --ioengine=io_uring --bs=4k --iodepth=128 --numjobs=8 $verified
	vmbus_end
}

# The ring is full before the pool is: a command that was mapped is given back and tried again. More than 32 pages, so that
# storvsc has to allocate what it sends. At first another disk takes its share of the pool, and commands wait; then the
# first has all of it.
ring_fills() {
	crowded 0 0
	sleep $((seconds * 2))
	kill -INT $other
	wait $other
	sleep $((seconds / 2))
	sent=$(payloads)
	note="$sent payloads under way"
}
group_ring() {
	local full leaked other
	plan 4
	controllers=2
	vmbus_start channels=1 storvsc_ringbuffer_size=8192
	# The host takes one command, 13 more fill the ring. There is room for 22 below the threshold, 11 are a share, and
	# there can be 19. SCSI sends no more until all have been answered. What is larger is split, and most of it small.
	tune 0 0 kib_s 6144
	tune 1 0 kib_s 4096
	set_to $fake/0/depth 1
	full=$(seen 0/ring_full)
	fio --name=other --output=$results/other.json --eta=never --time_based --runtime=$((seconds * 20)) --filename=$disk_10 --direct=1 \
		--ioengine=psync --rw=randread --bs=252k --numjobs=32 --thread >/dev/null 2>&1 &
	other=$!
	step=ring_fills request_kib=$(cat $(queue_of $disk_00)/max_sectors_kb) read_back=yes
	scenario "ring full, verified" $((seconds * 5)) --filename=$disk_00 --direct=1 --ioengine=io_uring --bs=252k --iodepth=32 --numjobs=2 \
		$looped --rw=randwrite --verify_backlog=64 --size=16128k --offset_increment=16128k \
		--name=reads --time_based --runtime=$((seconds * 5)) --filename=$disk_00 --direct=1 --ioengine=io_uring --bs=252k --iodepth=32 \
		--numjobs=2 --rw=randread
	full=$(($(seen 0/ring_full) - full))
	leaked=$(payloads)
	if [ $full -ge 50 ]; then ok "the ring was full" "$full times"; else not_ok "the ring was full" "$full times"; fi
	if [ "$leaked" = 0 ] && [ "$sent" -gt 0 ]; then ok "no payload leaks" "$sent in the middle, $leaked in the end"; else not_ok "no payload leaks" "$sent in the middle, $leaked in the end"; fi
	vmbus_end
}

# H8: the error handler runs to its end, whatever waits.
host_reset() {
	crowded 0 0
	tune 0 0 silent 8
	until [ "$(seen 0/disk0/silent)" = 0 ] || ! kill -0 $fio 2>/dev/null; do usleep 50000; done
	# Longer than anybody waits for buffers, and than the command timer. SCSI lets a host settle for 10 s.
	sleep 7
	attempted 30 sg_reset -H -N $disk_00
	note="reset within $ms ms"
}
no_sense() {
	local begin
	crowded 0 0
	tune 0 0 error_kind 1
	tune 0 0 errors 3
	begin=$(now_ms)
	until [ "$(seen 0/disk0/errors)" = 0 ] && [ "$(cat $(scsi_host 0)/scsi_host/host*/state)" = running ]; do
		[ $(($(now_ms) - begin)) -le 60000 ] || { why="$why; the error handler does not end"; break; }
		usleep 50000
	done
	note="recovered within $(($(now_ms) - begin)) ms"
}
some_errors() {
	crowded 0 0
	tune 0 0 error_kind 0
	tune 0 0 errors 5
}
group_eh() {
	plan 7
	controllers=2
	vmbus_start
	raw="--filename=$disk_00:$disk_10 --direct=1"
	set_to /sys/block/${disk_00#/dev/}/device/timeout 3
	step=host_reset stalls=yes read_back=yes
	scenario "commands are never answered, verified" $((seconds + 20)) $raw --ioengine=io_uring --bs=64k --iodepth=32 --numjobs=4 $verified
	step=host_reset stalls=yes
	scenario "commands are never answered, one submitter each" $((seconds + 20)) $raw --ioengine=psync --rw=randread --bs=128k --numjobs=48 --thread
	step=no_sense read_back=yes stalls=yes
	scenario "errors without sense data, verified" $((seconds + 6)) $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	step=some_errors fails=yes
	scenario "errors with sense data" $seconds $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
	left=$(seen 0/disk0/errors)
	tune 0 0 errors 0
	told=$(dmesg | grep -c 'critical medium error')
	if [ "$left$told" = 05 ]; then ok "each of five errors is told"; else not_ok "each of five errors is told" "$told told, $left left"; fi
	scenario "works as before" $seconds $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
	vmbus_end
}

# Withdrawn while a command, or many, sleep in the map.
withdrawn() {
	local begin
	crowded $1 0
	begin=$(now_ms)
	set_to $fake/$1/withdraw 1
	until [ ! -e /sys/bus/vmbus/devices/fa4e000$1-0000-0000-0000-000000000000 ]; do
		[ $(($(now_ms) - begin)) -le 40000 ] || { why="$why; the controller does not go"; break; }
		usleep 50000
	done
	note="gone after $(($(now_ms) - begin)) ms"
}
withdrawn_silent() {
	crowded $1 0
	tune $1 0 silent 4
	until [ "$(seen $1/disk0/silent)" = 0 ] || ! kill -0 $fio 2>/dev/null; do usleep 50000; done
	withdrawn $1
}
group_withdraw() {
	local leaked
	plan 6
	controllers=4
	vmbus_start
	# Each of the disks is alone when it is loaded.
	tune '*' '*' kib_s 16384
	step="withdrawn 0" fails=yes
	scenario "withdrawn" $seconds --filename=$disk_00 --direct=1 --ioengine=io_uring --rw=randrw --bs=128k --iodepth=64 --numjobs=2
	step="withdrawn 1" fails=yes request_kib=160
	scenario "withdrawn, one submitter each" $seconds --filename=$disk_10 --direct=1 --ioengine=psync --rw=randread --bs=160k --numjobs=48 --thread
	step="withdrawn_silent 2" fails=yes stalls=yes request_kib=160
	scenario "withdrawn while it does not answer" $seconds --filename=$disk_20 --direct=1 --ioengine=io_uring --rw=randrw --bs=160k --iodepth=64 --numjobs=2
	leaked=$(payloads)
	if [ "$leaked" = 0 ]; then ok "no payload leaks"; else not_ok "no payload leaks" "$leaked are left"; fi
	request_kib=$(cat $(queue_of $disk_30)/max_sectors_kb)
	scenario "the last one works" $seconds --filename=$disk_30 --direct=1 --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
	vmbus_end
}

# Two disks, the one 100 times slower than the other, with room for 44 requests of the slow one below the threshold.
slow_begin() {
	fio --name=slow --output=$results/slow.json --eta=never --time_based --runtime=600 --filename=$disk_10 --direct=1 \
		--ioengine=psync --rw=randread --bs=8k --numjobs=$1 --thread >/dev/null 2>&1 &
	slow=$!
	sleep 3
}
slow_end() {
	tune 1 0 kib_s 65536
	kill -INT $slow
	wait $slow
	tune 1 0 kib_s $((fast_kib_s / 100))
}
# beside NAME SECONDS [RAMP]: what the fast one reads meanwhile; not counting the first RAMP seconds.
beside() {
	waits=perhaps others=yes request_kib=32
	scenario "$1" $2 --ramp_time=${3:-0} --filename=$disk_00 --direct=1 --ioengine=io_uring --rw=randread --bs=32k --iodepth=4 --numjobs=1
}
# The fast disk keeps four fifths of what it reads beside a slow one with its serialized request only. That is measured before
# and after, in the same time altogether: the machine may have something else to do as well.
paced() {
	local idle busy figures
	slow_begin 1
	beside "beside one slow request, before $1" $seconds
	idle=$ios
	slow_end
	slow_begin $2
	# While it was alone it could take all there is, and it gives that back as slowly as it does anything.
	beside "beside $1" $((seconds * 2)) 10
	busy=$ios
	slow_end
	slow_begin 1
	beside "beside one slow request, after $1" $seconds
	idle=$((idle + ios))
	slow_end
	figures="$busy of $idle reads, $((busy * 100 / (idle > 0 ? idle : 1))) %"
	if [ $((busy * 100)) -ge $((idle * 80)) ]; then ok "the fast disk keeps its pace beside $1" "$figures"; else not_ok "the fast disk keeps its pace beside $1" "$figures"; fi
}
group_slow() {
	local slow fast_kib_s cap
	plan 9
	controllers=2
	vmbus_start
	# Slower than the guest's CPUs. The slow one's queue is then as long as a wait may be made.
	fast_kib_s=2600
	cap=$(knob throttle_cap_ms)
	knob throttle_cap_ms 10000
	tune 0 0 kib_s $fast_kib_s
	tune 1 0 kib_s $((fast_kib_s / 100))
	paced "a slow disk with half of the room" 22
	paced "a slow disk that could fill the pool" 48
	knob throttle_cap_ms $cap
	vmbus_end
}

# Multipath: two controllers with the same disk.
paths() {
	echo "0 $((64 * 2048)) multipath 0 0 1 1 round-robin 0 2 1 $disk_00 1 $disk_10 1"
}
# path_fails CONTROLLER DISK: until multipath has noticed, and back.
path_fails() {
	local t=0
	busy $1 0
	tune $1 0 error_kind 2
	tune $1 0 errors 4294967295
	until dmsetup status mp | grep -q ' F '; do
		t=$((t + 1))
		[ $t -le 200 ] && kill -0 $fio 2>/dev/null || { why="$why; the path has not failed: $(dmsetup status mp)"; break; }
		usleep 100000
	done
	sleep 1
	tune $1 0 errors 0
	attempted 10 dmsetup message mp 0 reinstate_path $2
}
paths_fail() {
	path_fails 0 $disk_00
	path_fails 1 $disk_10
}
swap_table() {
	local i
	for i in 1 2 3; do
		sleep 1
		paths | dmsetup reload mp || why="$why; no new table"
		attempted 30 dmsetup resume mp
	done
	note="longest resume $longest ms"
}
group_multipath() {
	plan 9
	controllers=2
	vmbus_start shared=1
	paths | dmsetup create mp || { not_ok "a multipath device"; finish; }
	mp=/dev/$(basename $(readlink -f /sys/block/dm-*))
	mp_flags=$(flags_of $mp)
	case $mp_flags in
	*BLOCKING*) ok "its queue may block as those below" "$mp_flags" ;;
	*) not_ok "its queue may block as those below" "$mp_flags" ;;
	esac
	raw="--filename=$mp --direct=1"
	max_kib=$(cat $(queue_of $mp)/max_sectors_kb)
	request_kib=$max_kib read_back=yes
	scenario "multipath, verified" $seconds $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	request_kib=$max_kib
	scenario "multipath, psync" $seconds $raw --ioengine=psync --rw=randread --bs=128k --numjobs=48 --thread
	step=paths_fail request_kib=$max_kib read_back=yes
	scenario "paths fail, verified" $((seconds + 14)) $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	longest=0 step=swap_table request_kib=$max_kib read_back=yes
	scenario "the table is swapped, verified" $((seconds + 6)) $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	attempted 30 dmsetup remove mp

	# A queue that was made when no path was there to ask.
	echo "0 $((64 * 2048)) multipath 1 queue_if_no_path 0 0 0" | dmsetup create mp || { not_ok "no path at first"; finish; }
	paths | dmsetup reload mp && dmsetup resume mp || { not_ok "paths are added"; finish; }
	mp=/dev/$(basename $(readlink -f /sys/block/dm-*))
	raw="--filename=$mp --direct=1"
	ok "paths are added to a device that had none" "$(flags_of $mp)"
	request_kib=$max_kib read_back=yes
	scenario "paths added later, verified" $seconds $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	step=paths_fail request_kib=$max_kib read_back=yes
	scenario "paths added later fail, verified" $((seconds + 14)) $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=4 $verified
	attempted 30 dmsetup remove mp
	vmbus_end
}

# NVMe and storvsc in one pool.
group_both() {
	plan 3
	mib_s=6
	vmbus_start
	raw="--filename=/dev/$(nvme_disk 0):$disk_00 --direct=1"
	request_kib=64 read_back=yes
	scenario "NVMe and storvsc, verified" $((seconds * 2)) $raw --ioengine=io_uring --bs=64k --iodepth=64 --numjobs=8 $verified
	scenario "NVMe and storvsc, psync" $seconds $raw --ioengine=psync --rw=randread --bs=128k --numjobs=64 --thread
	vmbus_end
}

group_$group
finish
