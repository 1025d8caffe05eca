#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# contrib/demo.sh [LOWER]
#
# An overlay over the directory LOWER (default /usr/share), shown step by step: a read, a copy-up, a new file, a
# deletion, and the upper directory that results. LOWER is not changed. OV_PROG names the program to run.

set -eu

lower=${1:-/usr/share}
prog=${OV_PROG:-fuse-overlay}
lower=$(cd "$lower" && pwd -P)
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/fuse-overlay-demo.XXXXXX")
mnt=$dir/merged

unmount()
{
	fusermount3 -u "$mnt" 2>/dev/null || umount "$mnt"
}

finish()
{
	trap - EXIT INT TERM HUP
	if grep -qF " $mnt " /proc/self/mountinfo; then
		unmount || umount -l "$mnt" || fusermount3 -uz "$mnt" || return 0
	fi
	# Overlay work directories have mode 0.
	chmod -R u+rwX "$dir" 2>/dev/null || :
	rm -rf "$dir"
}

trap finish EXIT
trap 'exit 130' INT TERM HUP

say()
{
	printf '\n# %s\n' "$1"
}

# claim TEXT TEST...: the demonstration fails where TEST does not hold.
claim()
{
	text=$1
	shift
	"$@" || { echo "demo: this does not hold: $text" >&2; exit 1; }
	echo "$text"
}

show()
{
	printf '$ %s\n' "$*"
	"$@"
}

mkdir "$dir/upper" "$dir/work" "$mnt"
cd "$dir"

# Two small regular files of LOWER: one to change, one to delete.
# shellcheck disable=SC2046
set -- $(find "$lower" -xdev -type f -size -16k ! -path '*[[:space:]]*' -print 2>/dev/null | sort | sed -n '1p;2p')
[ $# -eq 2 ] || { echo "demo: $lower holds no two small files" >&2; exit 1; }
change=${1#"$lower"/}
delete=${2#"$lower"/}
before=$(cksum <"$lower/$change")

say "Mount: everything below $lower, with changes kept in ./upper"
show "$prog" -o "lowerdir=$lower,upperdir=upper,workdir=work" merged
grep -F " $mnt " /proc/self/mountinfo

say 'Read: the files of the lower directory are there'
show ls merged | head -n 8
printf '$ find merged | wc -l\n'
find merged | wc -l
printf '$ cmp %s %s\n' "$lower/$change" "merged/$change"
claim 'equal' cmp "$lower/$change" "merged/$change"

say 'Change a file: it is copied up first, the lower one stays as it was'
printf "$ echo '# changed' >> merged/%s\n" "$change"
echo '# changed' >>"merged/$change"
show tail -n 1 "merged/$change"
claim "$lower/$change: unchanged" [ "$(cksum <"$lower/$change")" = "$before" ]

say 'Create and delete'
printf "$ echo hello > merged/new-file\n"
echo hello >merged/new-file
show rm "merged/$delete"
claim "merged/$delete: gone" [ ! -e "merged/$delete" ]
claim "$lower/$delete: still there" [ -e "$lower/$delete" ]

say 'Unmount; what has been changed is in ./upper: the deleted file is a whiteout (character device 0, 0)'
printf '$ fusermount3 -u merged\n'
unmount
show find upper -mindepth 1 -exec ls -ld {} +

say 'Any overlay file system reads this upper directory; mounted again it shows the same'
show "$prog" -o "lowerdir=$lower,upperdir=upper,workdir=work" merged
show tail -n 1 "merged/$change"
show cat merged/new-file
claim "merged/$delete: gone" [ ! -e "merged/$delete" ]
unmount
say 'Done'
