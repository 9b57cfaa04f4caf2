#!/bin/sh
# The source's data disk: one partition with a filesystem of its own and a few MB that can be checked.
# mke2fs copies a folder into the filesystem: nothing is mounted.
#
# usage: data.sh IMAGE SIZE_MIB FS_UUID DISK_ID
set -eu
umask 022
image=$1 size_mib=$2 fs_uuid=$3 disk_id=$4
content=$image.content

mkdir -p "$content/orders"
for year in 2019 2020 2021 2022 2023; do
    seq -f "$year-%08.0f;booked;shipped" 1 40000 >"$content/orders/$year.csv"
done
(cd "$content" && sha256sum orders/*.csv >SHA256SUMS)
chown -R 1000:1000 "$content/orders"

truncate -s "${size_mib}M" "$image"
printf 'label: dos\nlabel-id: %s\n2048,,L\n' "$disk_id" | sfdisk -q "$image"
mke2fs -q -t ext4 -U "$fs_uuid" -J size=4 -E offset=1048576,assume_storage_prezeroed=1 -d "$content" \
    "$image" "$(((size_mib - 1) * 1024))k"
rm -r "$content"
sync "$image"
