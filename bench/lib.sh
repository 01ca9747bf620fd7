# Sourced by the measurements: kernels, modules, boots, and what each result says about where it was measured.
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
export LC_ALL=C

bench=$TOP/bench
results=$BUILD/results
work=$BUILD/bench
mkdir -p "$results" "$work"
need_tool jq jq

# What is compared; the letters are those of the report.
declare -A kernels=([A]=base-bench [B]=bench-off [C]=bench-on [D]=bench-on [E]=base-bench-dynamic)
declare -A meaning=(
	[A]='unpatched base'
	[B]='series, option off'
	[C]='series, option on, throttling not reached'
	[D]='series, option on'
	[E]='unpatched base, CONFIG_SWIOTLB_DYNAMIC=y'
	[O]='D with throttle_high=100'
)

# The series' kernels come from a work tree of its own, which stays as it is while the tree changes. KEEP=1 leaves it
# and the kernels there as an earlier run made them.
src=$work/$BASE/linux
series_source() {
	[ -z "${KEEP:-}" ] || [ ! -e "$work/commit" ] || return 0
	mkdir -p "$work/$BASE"
	series_worktree "$src"
	tgit rev-parse HEAD >"$work/commit"
	series_reset
}
series_reset() { (TREE=$src && tgit reset -q --hard "$(cat "$work/commit")" && tgit clean -qfd); }

# vmlinux_of LETTER: sets $vmlinux; built once in a run. VMLINUX=FILE stands in for C and D.
declare -A built=()
vmlinux_of() {
	local k=${kernels[$1]}
	if [ -z "${built[$k]:-}" ]; then
		case $k${VMLINUX:+given} in
		bench-ongiven) vmlinux=$VMLINUX; built[$k]=$vmlinux; return ;;
		base*) vmlinux=$BUILD/$BASE/kernel-$k/vmlinux ;;
		*) vmlinux=$work/$BASE/kernel-$k/vmlinux; series_source ;;
		esac
		if [ -z "${KEEP:-}" ] || [ ! -e "$vmlinux" ]; then
			case $k in
			base*) "$TOP/tools/kernel" "$k" >/dev/null ;;
			*) BUILD=$work SRC=$src "$TOP/tools/kernel" "$k" >/dev/null ;;
			esac
		fi
		built[$k]=$vmlinux
	fi
	vmlinux=${built[$k]}
}

# boot NAME ARGS...: a guest, up to three times; one that a stall of the machine spoils is no reason to lose all the others.
# BENCH_LOCK is a file that several runs on one machine agree to lock meanwhile.
boot() {
	local name=$1 try why
	shift
	for try in 1 2 3; do
		! ${BENCH_LOCK:+flock "$BENCH_LOCK"} "$TOP/tools/guest" -n "$name" "$@" >"$results/$name.tap" || return 0
		why=$(grep -m1 '^not ok' "$results/$name.tap" || true)
		cp "$results/$name/console.log" "$results/$name/console.$try.log" 2>/dev/null || true
		say "the guest of '$name' failed (try $try of 3): $why"
	done
	die "the guest of '$name' failed three times: $why" "see $results/$name/console.1.log"
}

# patched_kernel NAME: $patched is the vmlinux of bench-on with bench/NAME.patch on top.
patched_kernel() {
	series_source
	series_reset
	trap 'series_reset || true' EXIT
	(TREE=$src && tgit apply "$bench/$1.patch") || die "bench/$1.patch does not apply any more" "mend it"
	patched=$work/vmlinux-$1
	# Moved away, so that nobody takes the patched kernel for C or D.
	mv "$(BUILD=$work SRC=$src "$TOP/tools/kernel" bench-on)" "$patched"
	series_reset
}

kernel_of() { tr -d '\r' <"$results/$1/console.log" | sed -n 's/.*Linux version \([^ ]*\).*/\1/p' | head -n 1; }

# about COMMAND: where and when, as JSON. The load tells whether the machine did something else.
about() {
	local v set=''
	for v in DISK QUICK LETTERS POOLS SIZES DEPTHS WAYS LOADS POOL_KIB PACKETS_PER_MS ROUNDS IOS SECONDS_EACH DISK_MIB_S DISK_IOPS GUEST_ARGS; do
		[ -z "${!v:-}" ] || set+="$v='$(tr '\n' ',' <<<"${!v}" | sed 's/,$//')' "
	done
	jq -n --arg command "$set$1" --arg date "$(date -u +%FT%TZ)" \
		--arg qemu "$("${QEMU:-qemu-system-x86_64}" --version | sed -n '1s/QEMU emulator version //p')" \
		--arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" --arg cpus "$(nproc)" \
		--arg load "$(cut -d' ' -f1-3 /proc/loadavg)" \
		--arg gcc "$(gcc --version | sed -n '1s/^[^)]*) //p')" \
		--arg series "$([ -n "${VMLINUX:-}" ] && echo 'of a kernel given by VMLINUX=' || git -C "$TOP" describe --always --exclude='*' --dirty 2>/dev/null || echo unknown)" '{
		command: $command, date: $date, series_commit: $series,
		machine: "QEMU \($qemu), TCG, on \($cpus) CPUs (\($cpu)), gcc \($gcc)", load: $load}'
}
