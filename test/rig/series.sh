#!/bin/bash
# `make series` gives what git am takes on the pristine base, and that is the tree.
set -euo pipefail
. "$(dirname "$0")/lib"

export KERNEL=$rig_kernel
SOB='A Tester <tester@example.org>' "$TOP/tools/series" "$work/series"
count=$(find "$work/series" -name '*.patch' ! -name '0000-*' | wc -l)
[ "$count" = "$(tgit rev-list --count base..HEAD)" ] && [ "$count" -gt 0 ] &&
	ok "$count patches, one for each commit" || not_ok "$count patches, one for each commit"

cover=$work/series/0000-cover-letter.patch
if grep -q "^Subject: \[PATCH v1 0*0/$count\]" "$cover" && ! grep -qF '***' "$cover" &&
	grep -q "^A Tester ($count):" "$cover" && grep -q 'files\? changed' "$cover"; then
	ok "the cover letter has subject, shortlog and diffstat"
else
	not_ok "the cover letter has subject, shortlog and diffstat"
	head -n 20 "$cover" | note
fi
signed=$(grep -lx 'Signed-off-by: A Tester <tester@example.org>' "$work"/series/*.patch | wc -l)
[ "$signed" = "$count" ] && ok "SOB= signs off every patch" || not_ok "SOB= signs off every patch"
mkdir "$work/others" && echo precious >"$work/others/0001-mine.patch"
fails "a directory with other patches is refused" "holds a patch that is none of these" "$TOP/tools/series" "$work/others"
[ "$(cat "$work/others/0001-mine.patch")" = precious ] && ok "and they stay" || not_ok "and they stay"
fails "a sender without an address is refused" "is no identity" env SOB=nobody "$TOP/tools/series" "$work/none"

# Only the files in question are checked out.
tgit worktree prune
tgit worktree add -q --no-checkout --detach "$work/am" base
trap 'tgit worktree remove --force "$work/am" 2>/dev/null || :; rig_cleanup' EXIT
TREE_SAVED=$TREE
paths=$(tgit diff --no-renames --name-only base HEAD)
TREE=$work/am
tgit sparse-checkout set --no-cone $(sed 's#^#/#' <<<"$paths") 2>/dev/null
tgit read-tree -m -u HEAD
check "git am takes the series on the pristine base" tgit -c user.name=rig -c user.email=rig@localhost am -q --empty=drop "$work"/series/*.patch
applied=$(tgit rev-parse 'HEAD^{tree}')
TREE=$TREE_SAVED
[ "$applied" = "$(tgit rev-parse 'HEAD^{tree}')" ] && ok "and the result is the tree of make tree" || not_ok "and the result is the tree of make tree"
done_testing
