#!/bin/bash
# with_arm64.sh COMMAND...: run COMMAND where this machine runs arm64 programs too, under qemu.
#
# In a user namespace of its own, with all users mapped, so that the handler it registers is seen
# by nobody else (Linux 6.7 or newer).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
mkfifo "$folder/go"
setpriv --pdeathsig KILL unshare --user -- bash -c 'read -r < "$1"; shift
  exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc "$@"' \
  wait "$folder/go" "$here/register_arm64.sh" "$@" &
child=$!
trap 'kill -KILL $child 2>/dev/null' EXIT TERM INT
own=$(readlink /proc/self/ns/user)
until [ "$(readlink "/proc/$child/ns/user")" != "$own" ]; do sleep 0.05; done
echo "0 0 65536" > "/proc/$child/uid_map"
echo "0 0 65536" > "/proc/$child/gid_map"
echo > "$folder/go"
rm -r "$folder"
wait "$child"
