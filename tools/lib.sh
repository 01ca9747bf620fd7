# Sourced by the scripts of the rig: where things live, how they speak, how they fail.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$TOP/build}
case $BUILD in /*) ;; *) BUILD=$PWD/$BUILD ;; esac
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/swiotlb-throttle}
export TOP BUILD CACHE

# Progress goes to standard error, so that a script's result can be captured.
say() { printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

# die MESSAGE [REMEDY]: one clear line, exit status 1.
die() {
	printf 'error: %s%s\n' "$1" "${2:+; $2}" >&2
	exit 1
}

# die_of WHAT OUTPUT DIR: WHAT failed in DIR with this output: one line that says why, a full disk by its name.
die_of() {
	if grep -qi 'no space left\|quota exceeded' <<<"$2"; then
		die "no space left in $3 while $1" "free some space there (or set BUILD= or CACHE= to another disk) and run again"
	fi
	die "failed while $1: $(grep -im1 'error\|fatal\|cannot' <<<"$2" || tail -n1 <<<"$2")"
}

# need_tool COMMAND PACKAGE
need_tool() {
	command -v "$1" >/dev/null ||
		die "$1 is missing" "run 'make setup' (it installs the Debian package $2)"
}

# kernel_version DIR: VERSION.PATCHLEVEL of a kernel tree, nothing if it is none.
kernel_version() {
	[ -r "$1/Makefile" ] && [ -r "$1/kernel/dma/swiotlb.c" ] || return 0
	awk -F' *= *' '$1 == "VERSION" { v = $2 } $1 == "PATCHLEVEL" { print v "." $2; exit }' "$1/Makefile"
}

# series_for VERSION: the base in patches/ that is VERSION, else the newest one before it, else the first one.
series_for() {
	local b best=
	for b in $(find "$TOP/patches" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort -V); do
		[ -z "$best" ] || [ "$(printf '%s\n' "$b" "$1" | sort -V | head -n1)" = "$b" ] || break
		best=$b
	done
	echo "${best:-7.3}"
}

# BASE names the series (patches/BASE) and its corner of the build directory; KERNEL's version chooses it unless it is given.
if [ -z "${BASE:-}" ]; then
	BASE=7.3
	[ -z "${KERNEL:-}" ] || BASE=$(series_for "$(kernel_version "$KERNEL")")
fi
TREE=$BUILD/$BASE/linux
export BASE

# Git in the tree as the scripts need it: nobody's own settings, hooks or identity change a result.
tgit() {
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -c core.autocrlf=false -c gc.auto=0 -c core.fsync=none -c safe.directory='*' \
		-c advice.detachedHead=false -c init.defaultBranch=series -C "$TREE" "$@"
}

# series_worktree DIR: a second work tree of the series, unless it is one. In BUILD/x/$BASE/linux, with a kernel built
# beside it, it is as far from that kernel as TREE from its own: ccache knows the objects.
series_worktree() {
	[ "$(git -C "$1" rev-parse --git-common-dir 2>/dev/null)" != "$(cd "$TREE/.git" && pwd -P)" ] || return 0
	say "checking out the series to $1"
	rm -rf "$1"
	tgit worktree prune
	tgit worktree add -q --force --detach "$1" base
}

# What somebody has changed in the tree and not committed. Debian's .gitignore hides new files: ask past it.
tree_changes() {
	tgit diff-index --name-only HEAD --
	tgit ls-files --others -x '*.o' -x '*.orig' -x '*.rej' -x '*~' -x '.*.sw?' -x __pycache__ -x 'cscope.*' -x tags
}

# What a tree is made from, as one word.
series_sum() {
	(cd "$TOP" && find "patches/$BASE" linux -type f ! -name cover-letter.txt -printf '%#m %p\n' 2>/dev/null | LC_ALL=C sort -k2 |
		while read -r mode path; do printf '%s %s ' "$mode" "$path"; sha256sum <"$path"; done | sha256sum | cut -c1-40)
}

# The tree remembers what it was made from (origin, series) and the commit that the patches hold (head).
tree_note() { sed -n "s/^$1=//p" "$TREE/.git/rig-note" 2>/dev/null || true; }
note_tree() {
	printf 'origin=%s\nseries=%s\nhead=%s\nto=%s\n' "$1" "$2" "$3" "${4:-}" >"$TREE/.git/rig-note.new" &&
		mv "$TREE/.git/rig-note.new" "$TREE/.git/rig-note"
}

# module_for VMLINUX DIRECTORY: build the module there against it; sets $module.
module_for() {
	local out tree log name
	name=$(basename "$2")
	out=$(dirname "$1")
	tree=$(readlink -f "$out/source")
	log=$out/$name.log
	mkdir -p "$out/$name"
	make -C "$tree" O="$out" M="$2" MO="$out/$name" W=1 modules >"$log" 2>&1 </dev/null ||
		die "the module $name does not build: $(grep -m1 error "$log")" "see $log"
	module=$out/$name/$name.ko
}
