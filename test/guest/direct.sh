# A disk that is not forced to bounce: nothing may differ from a kernel without throttling.
. /test/lib.sh
plan 3

flags=$(cat /sys/kernel/debug/block/$(nvme_disk 0)/hctx0/flags)
case $flags in
*BLOCKING*) not_ok "the I/O queue does not block" "$flags" ;;
*) ok "the I/O queue does not block" "$flags" ;;
esac
if [ -e $tlb/throttle_high ]; then not_ok "no pool is throttled"; else ok "no pool is throttled"; fi
if dd if=/dev/$(nvme_disk 0) of=/dev/null bs=1M count=8 iflag=direct 2>/tmp/error; then
	ok "the disk is read"
else
	not_ok "the disk is read" "$(tail -1 /tmp/error)"
fi
finish
