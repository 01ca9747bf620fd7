# Sourced by the tests that run on the host: results as TAP.
tap_count=0
tap_bad=0

ok() {
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $*"
}

not_ok() {
	tap_count=$((tap_count + 1))
	tap_bad=$((tap_bad + 1))
	echo "not ok $tap_count - $*"
}

# skip NAME REASON
skip() {
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $1 # SKIP $2"
}

# Standard input as a comment, to show why.
note() { sed 's/^/# /'; }

# check NAME COMMAND...: the result is the command's; its output is shown if it fails.
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		ok "$name"
	else
		not_ok "$name"
		tail -n 20 <<<"$out" | note
	fi
}

# renumber: the results among the lines of standard input, as one test's. Status 1 if one of them is not ok.
renumber() {
	awk '/^(not )?ok / {
			not = /^not/ ? "not " : ""
			sub(/^(not )?ok ([0-9]+ )?(- )?/, "")
			print not "ok " ++n " - " $0
			if (not) bad = 1
		}
		END { print "1.." n + 0; exit bad }'
}

done_testing() {
	echo "1..$tap_count"
	[ $tap_bad = 0 ]
}
