#!/bin/sh
# fuzz.sh PACKAGE TARGET TIME: fuzz one target, and fail where it finds something.
#
# At the end of its time go test of Go 1.26 may fail with nothing but "context
# deadline exceeded" (go.dev/issue/75804). A finding always says where its
# input is.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "${GO:-go}" test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$3" -fuzzminimizetime 10x >"$log" 2>&1; then
	tail -n 3 "$log"
elif grep -q '^ *context deadline exceeded$' "$log" && ! grep -qE 'Failing input|panic|fatal error' "$log"; then
	grep '^fuzz:' "$log" | tail -n 1
	echo "ok  	$1 $2: no finding"
else
	cat "$log"
	exit 1
fi
