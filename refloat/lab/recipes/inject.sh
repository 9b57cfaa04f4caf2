#!/bin/sh
# Unpacks the tar on standard input over the root filesystem of a raw image.
# In namespaces of its own, as disk.sh: no mount and no loop device outlives it.
#
# usage: inject.sh IMAGE OFFSET BYTES MOUNTPOINT < TAR
set -eu
umask 022
mount -o "loop,offset=$2,sizelimit=$3,noatime" "$1" "$4"
tar -x --numeric-owner --no-overwrite-dir -C "$4" -f -
umount "$4"
