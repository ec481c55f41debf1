#!/bin/bash
# make_root.sh ROOT ARCH: the file system of a virtual phone (amd64 or arm64), without its identity.
#
# Debian trixie brings Android's own debugging daemon, its shell (mksh) and its tools (toybox).
# Packages are unpacked only, so that no program of the other architecture has to run here.
set -euo pipefail
root=$1
arch=$2
here=$(cd "$(dirname "$0")" && pwd)

mmdebstrap --quiet --variant=extract --arch="$arch" --include=adbd,mksh,toybox,coreutils,libstdc++6 \
  trixie "$root"
cd "$root"
for folder in bin sbin lib lib64; do
  if [ ! -e "$folder" ] && [ -d "usr/$folder" ]; then ln -s "usr/$folder" "$folder"; fi
done
mkdir -p proc sys dev data/local/tmp sdcard system/bin fake
ln -sf mksh usr/bin/sh
ln -sf toybox usr/bin/env
ln -sf /usr/bin/mksh system/bin/sh
# Applets by the host's toybox, the same program: the phone's own may not run here.
for applet in $(toybox | tr -d '['); do
  [ "$applet" = sh ] || ln -sf /usr/bin/toybox "system/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\nshell:x:2000:2000:shell:/data:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nshell:x:2000:\n' > etc/group
install -m 755 "$here"/android/* system/bin/
case $arch in
  amd64) compiler=gcc ;;
  arm64) compiler=aarch64-linux-gnu-gcc ;;
esac
"$compiler" -shared -fPIC -O1 -Wall -Werror -o usr/lib/loopback.so "$here/loopback.c" -ldl
