#!/bin/bash
# Interrupted downloads and updates, damaged files, full disks: one clear line, and the next run recovers.
set -euo pipefail
. "$(dirname "$0")/lib"

# With a kernel of one's own there need not be a package.
tarball=$("$TOP/tools/fetch-base" "$BASE") || [ -n "$rig_kernel" ]
small_kernel "$work/small/linux-source-$BASE"

# A package with the small kernel, and an apt that serves it: the real one is not asked in a test.
deb=$work/linux-source-${BASE}_$BASE.99-1_all.deb
mkdir -p "$work/pkg/usr/src" "$work/pkg/DEBIAN" "$work/bin"
tar -C "$work/small" -cJf "$work/pkg/usr/src/linux-source-$BASE.tar.xz" "linux-source-$BASE"
printf 'Package: linux-source-%s\nVersion: %s.99-1\nArchitecture: all\nMaintainer: rig <rig@localhost>\nDescription: a small kernel\n' \
	"$BASE" "$BASE" >"$work/pkg/DEBIAN/control"
dpkg-deb -Znone -b "$work/pkg" "$deb" >/dev/null
cat >"$work/bin/apt-get" <<END
#!/bin/bash
case " \$* " in
*" indextargets "*) echo "file:/mirror/debian/ Debian" ;;
*" update "*) [ "\$MIRROR" != down ] || { echo "E: Could not resolve"; exit 100; } ;;
*" download "*)
	case \$MIRROR in
	cut) head -c 5000 "$deb" >"./${deb##*/}"; kill -KILL \$\$ ;;
	broken) echo "E: Failed to fetch: connection failed"; exit 100 ;;
	*) cp "$deb" . ;;
	esac ;;
esac
END
cat >"$work/bin/apt-cache" <<END
#!/bin/bash
[ "\$MIRROR" = gone ] || echo "linux-source-$BASE | $BASE.99-1 | mirror"
END
chmod +x "$work"/bin/*
fetch() { env PATH="$work/bin:$PATH" CACHE="$work/cache" MIRROR="$1" "$TOP/tools/fetch-base" "$BASE"; }

fails "no network" "cannot fetch the package lists.*KERNEL=" fetch down
fails "the package is gone" "carries no linux-source-$BASE any more; .*KERNEL=" fetch gone
fails "a download that breaks off" "cannot download linux-source-$BASE.*run again" fetch broken
fails "a download that is killed half way" "cannot download linux-source-$BASE.*run again" fetch cut
# And one that was killed while it unpacked.
mkdir -p "$work/cache/src/linux-source-${BASE}_$BASE.99-1/usr/src"
head -c 2000 "$work/pkg/usr/src/linux-source-$BASE.tar.xz" >"$work/cache/src/linux-source-${BASE}_$BASE.99-1/usr/src/linux-source-$BASE.tar.xz"
check "the next run fetches it whole" cmp <(xz -dc "$(fetch up 2>/dev/null)") <(xz -dc "$work/pkg/usr/src/linux-source-$BASE.tar.xz")
check "once fetched, no network is needed" fetch down

export BUILD=$work/build
tree() { env PATH="$work/bin:$PATH" CACHE="$work/cache" MIRROR=up "$TOP/tools/tree"; }
cached=$(fetch up)
truncate -s 3000 "$cached"
fails "a cached tarball that is cut off" "damaged and has been removed; run again" tree
check "the next run fetches it anew and makes the tree" tree
TREE=$BUILD/$BASE/linux
[ -e "$TREE/kernel/dma/swiotlb.c" ] && ok "the tree is there" || not_ok "the tree is there"

# An update of the tree that stops between the files and the commit.
head=$(tgit rev-parse HEAD)
if [ "$head" != "$(tgit rev-parse 'base^{commit}')" ]; then
	tgit read-tree -m -u HEAD base
	note_tree "$(tree_note origin)" '' "$head" "$head"
	check "an update that was cut off is completed" tree
	[ "$(tgit rev-parse HEAD)" = "$head" ] && [ -z "$(tree_changes)" ] && ok "and the tree is whole" || not_ok "and the tree is whole"
fi

# Killed while it unpacks the whole package.
if [ -n "$tarball" ]; then
	BUILD=$work/killed setsid "$TOP/tools/tree" >/dev/null 2>&1 &
	pid=$!
	for _ in $(seq 100); do
		[ ! -e "$work/killed/$BASE/.linux.new/Makefile" ] || break
		sleep 0.1
	done
	kill -KILL -- "-$pid"
	wait "$pid" 2>/dev/null || :
	BUILD=$work/killed check "make tree after one that was killed" tree
	[ "$(names "$work/killed/$BASE")" = ".tree.lock linux" ] && ok "and nothing is left of that" || not_ok "and nothing is left of that"
	rm -rf "$work/killed"
else
	skip "make tree after one that was killed" "there is no package to unpack"
fi

if [ -n "$tarball" ] && small_disk "$work/full" 24m && small_disk "$work/tiny" 256k; then
	fails "the disk of BUILD= is full" "no space left in .*/full" env BUILD="$work/full" KERNEL= CACHE="$CACHE" "$TOP/tools/tree"
	[ "$(names "$work/full/$BASE")" = ".tree.lock" ] && ok "no partial work is left" || not_ok "no partial work is left"
	BUILD=$work/full check "the next run that has room goes through" tree
	head -c 300K /dev/urandom >"$work/pkg/usr/src/filler"
	dpkg-deb -Znone -b "$work/pkg" "$deb" >/dev/null
	fails "the disk of CACHE= is full" "no space left in .*/tiny" env PATH="$work/bin:$PATH" CACHE="$work/tiny" MIRROR=up "$TOP/tools/fetch-base" "$BASE"
else
	skip "the disk of BUILD= is full" "it takes root, to mount a small file system, and the package"
	skip "the disk of CACHE= is full" "it takes root, to mount a small file system, and the package"
fi
[ -z "$tarball" ] || [ -e "$tarball" ] && ok "the real cache is as it was" || not_ok "the real cache is as it was"
done_testing
