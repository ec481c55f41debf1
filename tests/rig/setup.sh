#!/bin/bash
# Install what virtual phones need, on Debian 12 or newer, as root.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
packages=(adb mmdebstrap toybox gcc libc6-dev util-linux
  qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
missing=()
for package in "${packages[@]}"; do
  dpkg -s "$package" > /dev/null 2>&1 || missing+=("$package")
done
if ((${#missing[@]})); then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
