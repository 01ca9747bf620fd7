# Loads that hang or fail with a full pool, each with what throttling has to guarantee.
# usage: load.sh SECONDS [measure]     "measure": tell the figures, expect only that it ends
# Needs two disks, the second with 8 bytes of metadata a block; both slow enough that the queue stands.
. /test/lib.sh
seconds=$1
expect=${2:-throttling}
disk=$(nvme_disk 0) && meta=$(nvme_disk 1) || exit 1
queue=/sys/block/$disk/queue
meta_kib=$(cat /sys/block/$meta/queue/max_sectors_kb)
disk=/dev/$disk
meta=/dev/$meta

if [ "$expect" = throttling ] && ! throttling; then
	tell "this kernel has no swiotlb throttling"
	exit 1
fi
probe_start || { tell "the return probe on swiotlb_tbl_map_single cannot be set"; exit 1; }
plan 10

raw="--filename=$disk --direct=1"
scenario "io_uring" $seconds $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
scenario "libaio writes" $seconds $raw --ioengine=libaio --rw=randwrite --bs=128k --iodepth=64 --numjobs=2
scenario "psync" $seconds $raw --ioengine=psync --rw=randread --bs=128k --numjobs=48 --thread
request_kib=64
scenario "io_uring, batches of 16" $seconds $raw --ioengine=io_uring --rw=randread --bs=64k --iodepth=64 --numjobs=2 \
	--iodepth_batch=16 --iodepth_batch_complete_min=8
request_kib=64
scenario "libaio, batches of 16" $seconds $raw --ioengine=libaio --rw=randread --bs=64k --iodepth=64 --numjobs=2 \
	--iodepth_batch=16 --iodepth_batch_complete_min=8

echo mq-deadline >$queue/scheduler
request_kib=$(cat $queue/max_sectors_kb)
scenario "mq-deadline" $seconds $raw --ioengine=io_uring --rw=randread --bs=128k --iodepth=64 --numjobs=2
echo none >$queue/scheduler

waits=perhaps
scenario "polled" $seconds $raw --ioengine=io_uring --hipri=1 --rw=randread --bs=128k --iodepth=64 --numjobs=2

# Data plus metadata wait once. Small pieces of metadata among large ones of data leave holes in the pool.
scenario "metadata, large reads" $seconds --filename=$meta --direct=1 --ioengine=io_uring --rw=randread --bs=128k \
	--iodepth=64 --numjobs=2
# Metadata of its own: written with it, read back, compared.
request_kib=$meta_kib
read_back=yes
scenario "metadata, verified" $seconds --filename=$meta --direct=1 --ioengine=io_uring --bs=64k \
	--iodepth=32 --numjobs=8 --size=8m --offset_increment=8m $looped --rw=write --verify_backlog=16

/bin/mke2fs -q -t ext4 -F $disk >/dev/null && mount -t ext4 $disk /mnt || { not_ok "buffered writes" "no file system"; finish; }

request_kib=$(cat $queue/max_sectors_kb)
scenario "buffered writes and fsync" $seconds --directory=/mnt --direct=0 --ioengine=psync \
	--rw=write --bs=64k --size=24m --numjobs=8 --fsync=32
bounded 30 umount /mnt
finish
