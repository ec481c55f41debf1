#!/bin/bash
# boot.sh ROOT PORT DATA_MB: be init of a virtual phone; in its own mount and process namespaces.
#
# Starts the debugging daemon as the user `shell` and starts it again when it ends, as Android's
# init does, until the file fake/gone appears.
set -euo pipefail
root=$1
port=$2
data_mb=$3

mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for device in null zero urandom random tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs -o "size=${data_mb}m,mode=771,uid=1000,gid=1000" tmpfs "$root/data"
mkdir -p "$root/data/local/tmp"
chmod 771 "$root/data/local/tmp"
chmod 755 "$root/data" "$root/data/local"
chown 2000:2000 "$root/data/local/tmp"
exec 2>> "$root/fake/adbd.log"
while [ ! -e "$root/fake/gone" ]; do
  chroot --userspec=2000:2000 "$root" /usr/bin/env -i LD_PRELOAD=/usr/lib/loopback.so \
    PATH=/system/bin HOME=/ SHELL=/bin/sh ADBD_PORT="$port" /usr/sbin/adbd >> "$root/fake/adbd.log" 2>&1 || true
  sleep "$(cat "$root/fake/restart_seconds" 2>/dev/null || echo 0.3)" || true
done
