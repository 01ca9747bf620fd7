#!/bin/bash
# The tree and the patches say the same: there and back changes nothing.
set -euo pipefail
. "$(dirname "$0")/lib"

KERNEL=$rig_kernel "$TOP/tools/tree"
checkout "$work/copy"
checkout "$work/before"

# In a copy of the checkout, with the same tree.
same() {
	make -C "$work/copy" tree BUILD="$BUILD" && make -C "$work/copy" refresh BUILD="$BUILD" &&
		diff -r "$work/before" "$work/copy"
}
if [ -z "$rig_kernel" ]; then
	check "make tree && make refresh changes nothing in the checkout" same
	check "the second time neither" same
else
	skip "make tree && make refresh changes nothing in the checkout" "KERNEL= is another base than the patches were made on"
fi

# The way back, on a kernel of a few files: changes of every kind arrive in the patches and make the same tree again.
small_kernel "$work/kernel"
export BUILD=$work/build KERNEL=$work/kernel BASE
TREE=$BUILD/$BASE/linux
mk() { make -C "$work/copy" "$@"; }
tests_git() { tgit -c user.name=rig -c user.email=rig@localhost "$@"; }
check "a series is applied to a kernel given by KERNEL=" mk tree
patches=$(tgit rev-list --count base..HEAD)

echo '/* one more line */' >>"$TREE/kernel/dma/swiotlb.c"
fails "refresh refuses uncommitted changes" "uncommitted changes \(kernel/dma/swiotlb.c\)" mk refresh
mkdir -p "$TREE/lib/rig"
printf '#!/bin/sh\nexit 0\n' >"$TREE/lib/rig/new.sh"
chmod +x "$TREE/lib/rig/new.sh"
tgit add -f lib/rig/new.sh kernel/dma/swiotlb.c
tests_git commit -q -m "rig: a new file and a hunk" -m "The body's first paragraph." -m "And $(printf 'its second,\nof two lines.')"
echo '/* and another */' >>"$TREE/kernel/dma/swiotlb.c"
tests_git commit -q -a -m "rig: message without a body"
sum=$(series_sum)
# A patch changed elsewhere meanwhile: the commits must not get lost.
printf 'touched\n' >"$work/copy/patches/$BASE/9999-foreign.patch"
fails "make tree does not drop commits that no patch holds" "commits that no patch holds" mk tree
rm "$work/copy/patches/$BASE/9999-foreign.patch"
check "refresh writes two more patches" mk refresh
if [ "$(find "$work/copy/patches/$BASE" -name '[0-9]*.patch' | wc -l)" = $((patches + 2)) ] &&
	[ -x "$work/copy/linux/lib/rig/new.sh" ] && [ "$sum" = "$(series_sum)" ]; then
	ok "they and the new file are in the copy, the checkout itself is as it was"
else
	not_ok "they and the new file are in the copy, the checkout itself is as it was"
	find "$work/copy/patches" "$work/copy/linux" -type f | note
fi
tree=$(tgit rev-parse 'HEAD^{tree}')
again() {
	rm -rf "$BUILD" && mk tree && [ "$(tgit rev-parse 'HEAD^{tree}')" = "$tree" ] &&
		[ "$(tgit log -1 --format=%B HEAD~1 | tail -n 3)" = "$(printf "And its second,\nof two lines.\n")" ]
}
check "the patches make the same tree and messages anew" again

tgit reset -q --hard HEAD~2
check "refresh takes away the patches and files that the tree no longer has" mk refresh
check "and the copy is what it was" diff -r "$work/before" "$work/copy"

# Files that no patch touches keep their times: they are not compiled again.
touched=$(stat -c %Y "$TREE/Makefile")
sleep 1.1
first=$(find "$work/copy/patches/$BASE" -name '[0-9]*.patch' | sort | head -n 1)
if [ -n "$first" ]; then
	sed -i '1s/$/ (reworded)/' "$first"
	check "a patch that changes updates the tree" mk tree
	[ "$(stat -c %Y "$TREE/Makefile")" = "$touched" ] && ok "and leaves other files untouched" || not_ok "and leaves other files untouched"
fi
done_testing
