#!/bin/bash
# register_arm64.sh COMMAND...: register qemu for arm64 programs in this namespace, then COMMAND.
set -euo pipefail
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" \
  > /proc/sys/fs/binfmt_misc/register
exec "$@"
