# What the queues' flags are, beside those of the unpatched kernel (test/queue-flags).
# usage: flags.sh bounced|direct        bounced: all DMA is forced through bounce buffers
. /test/lib.sh
mode=$1
plan 4

# A disk over TCP to this very machine: no DMA of its own, a dispatch that sleeps anyway.
tcp_disk() {
	local target=/sys/kernel/config/nvmet t=0 c
	ip link set lo up
	mount -t configfs none /sys/kernel/config
	mkdir $target/subsystems/rig
	echo 1 >$target/subsystems/rig/attr_allow_any_host
	mkdir $target/subsystems/rig/namespaces/1
	echo -n /dev/$(nvme_disk 0) >$target/subsystems/rig/namespaces/1/device_path
	echo 1 >$target/subsystems/rig/namespaces/1/enable
	mkdir $target/ports/1
	echo ipv4 >$target/ports/1/addr_adrfam
	echo tcp >$target/ports/1/addr_trtype
	echo 127.0.0.1 >$target/ports/1/addr_traddr
	echo 4420 >$target/ports/1/addr_trsvcid
	ln -s $target/subsystems/rig $target/ports/1/subsystems/rig
	echo "nqn=rig,transport=tcp,traddr=127.0.0.1,trsvcid=4420" >/dev/nvme-fabrics
	while [ $t -lt 100 ]; do
		for c in /sys/class/nvme/nvme*; do
			[ "$(cat $c/transport)" = tcp ] && [ -e /sys/kernel/debug/block/${c##*/}n1/hctx0/flags ] && echo ${c##*/}n1 && return
		done
		usleep 100000
		t=$((t + 1))
	done
	return 1
}
# same NAME FLAGS REFERENCE
same() { if [ "$2" = "$3" ]; then ok "$1" "$2"; else not_ok "$1" "'$2', was '$3'"; fi; }
before() { sed -n "s/^$1: *//p" /test/queue-flags; }

flags=$(flags_of $(nvme_disk 0))
if throttling && [ $mode = bounced ]; then
	reference=$(before nvme)
	same "the queue of a disk that bounces may block" "$flags" "${reference:+$reference|}BLOCKING"
else
	same "the queue of a disk that need not wait is as before" "$flags" "$(before nvme)"
fi
tcp=$(tcp_disk 2>>$results/output.log) || tell "the disk over TCP is not there"
same "the queue of a disk over TCP is as before" "$(flags_of $tcp)" "$(before nvme-tcp)"
if bounded 30 dd if=/dev/$tcp of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null; then
	ok "the disk over TCP is read"
else
	not_ok "the disk over TCP is read"
fi
if [ $mode = bounced ] || [ ! -e $tlb/throttle_high ]; then ok "no pool is throttled in vain"; else not_ok "no pool is throttled in vain"; fi
finish
