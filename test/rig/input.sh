#!/bin/bash
# Bad input: one clear line, a status that is not 0, and nothing lost.
set -euo pipefail
. "$(dirname "$0")/lib"

small_kernel "$work/kernel"
checkout "$work/copy"
export BUILD=$work/build BASE
mk() { make -C "$work/copy" "$@"; }
TREE=$BUILD/$BASE/linux
state() { find "$TREE" -path "$TREE/.git/*" -prune -o -type f -printf '%p %T@ %s\n' | LC_ALL=C sort | sha256sum; tgit rev-parse HEAD; cat "$TREE/.git/rig-note"; }
check "a small kernel of one's own is taken" mk tree KERNEL="$work/kernel"
before=$(state)
source_before=$(find "$work/kernel" -printf '%p %T@ %s\n' | sort | sha256sum)

fails "a KERNEL path that does not exist" "KERNEL=/nonexistent/linux is not a directory" mk tree KERNEL=/nonexistent/linux
fails "a KERNEL path that is a file" "is not a directory" mk tree KERNEL="$work/kernel/Makefile"
mkdir -p "$work/empty"
fails "a directory that is no kernel" "is not a kernel source tree" mk tree KERNEL="$work/empty"
cp -r "$work/kernel" "$work/noswiotlb"
rm "$work/noswiotlb/kernel/dma/swiotlb.c"
fails "a kernel without swiotlb" "is not a kernel source tree.*kernel/dma/swiotlb.c" mk tree KERNEL="$work/noswiotlb"

patch=$(grep -l '^--- a/kernel/dma/swiotlb.c' "$TOP/patches/$BASE"/[0-9]*.patch 2>/dev/null | head -n 1 || :)
if [ -n "$patch" ]; then
	line=$(awk '/^--- / { f = $2 == "a/kernel/dma/swiotlb.c" } f && /^@@/ { split($2, a, /[-,]/); print a[2]; exit }' "$patch")
	cp -r "$work/kernel" "$work/unfit"
	sed -i 's/$/ \/\/ other/' "$work/unfit/kernel/dma/swiotlb.c"
	fails "a kernel that the patches do not fit: the first patch and hunk are named" \
		"$(basename "$patch" | sed 's/[].[*^$]/\\&/g') does not fit this kernel: hunk at kernel/dma/swiotlb.c:$line fails" mk tree KERNEL="$work/unfit"
else
	not_ok "a patch of the series changes kernel/dma/swiotlb.c"
fi
[ "$(state)" = "$before" ] && ok "the tree is as it was after all of them" || not_ok "the tree is as it was after all of them"
[ "$(names "$BUILD/$BASE")" = ".tree.lock linux" ] && ok "and nothing is left beside it" || {
	not_ok "and nothing is left beside it"
	names "$BUILD/$BASE" | note
}
check "the next run with a good kernel goes through" mk tree KERNEL="$work/kernel"
[ "$(find "$work/kernel" -printf '%p %T@ %s\n' | sort | sha256sum)" = "$source_before" ] && ok "the user's kernel is only read" || not_ok "the user's kernel is only read"

# Another version takes the nearest series and says so.
cp -r "$work/kernel" "$work/other"
sed -i 's/^PATCHLEVEL = .*/PATCHLEVEL = 99/' "$work/other/Makefile"
out=$(mk tree KERNEL="$work/other" 2>&1) && grep -q "no series for Linux [0-9]*.99: taking the nearest, patches/$BASE" <<<"$out" &&
	ok "another version takes the nearest series and says so" || { not_ok "another version takes the nearest series and says so"; note <<<"$out"; }

echo '/* work */' >>"$TREE/kernel/dma/swiotlb.c"
fails "uncommitted work in the tree is not overwritten" "uncommitted changes" mk tree KERNEL="$work/kernel"
check "FORCE=1 drops it" mk tree KERNEL="$work/kernel" FORCE=1

fails "a kernel configuration that does not exist" "no kernel configuration 'nonsense'" env BUILD="$BUILD" "$TOP/tools/kernel" nonsense
fails "a test suite that does not exist" "no test suite 'nonsense'" "$TOP/test/check" nonsense

# A PATH that has everything but QEMU.
mkdir "$work/bin"
for d in $(tr : ' ' <<<"$PATH"); do
	[ ! -d "$d" ] || find "$d" -maxdepth 1 ! -type d ! -name 'qemu*' -exec ln -sf -t "$work/bin" {} +
done
fails "no QEMU" "qemu-system-x86_64 is missing; .*make setup" env PATH="$work/bin" "$TOP/tools/guest" nothing.sh
fails "no git" "git is missing; run 'make setup'" env PATH="$work/bin" bash -c 'rm "$1/git"; exec "$2/tools/tree"' - "$work/bin" "$TOP"
done_testing
