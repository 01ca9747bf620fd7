# Sourced by checks that build single objects: a small configuration, and make in an output directory.
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_USER=rig KBUILD_BUILD_HOST=rig

# kmake SRC OUT ARGS...
kmake() {
	local src=$1 out=$2 ccache=
	shift 2
	! command -v ccache >/dev/null || ccache='ccache '
	make -C "$src" O="$out" CC="${ccache}gcc" HOSTCC="${ccache}gcc" -j"${JOBS:-$(nproc)}" "$@" </dev/null
}

# small_config SRC OUT 'A=y B=n ...': these and nothing else; symbols that the source does not know are dropped.
small_config() {
	mkdir -p "$2" || return
	printf 'CONFIG_%s\n' $3 >"$2/.fragment"
	kmake "$1" "$2" -s KCONFIG_ALLCONFIG="$2/.fragment" allnoconfig
}

# same_config FROM TO: for another source; what that does not know, its build drops.
same_config() {
	mkdir -p "$2" || return
	cmp -s "$1/.config" "$2/.rig-config" || cp "$1/.config" "$2/.config"
	cp "$1/.config" "$2/.rig-config"
}

# has_config OUT SYMBOL=y
has_config() { grep -qx "CONFIG_$2" "$1/.config"; }
