#IMGS 256M 1
# exercises: recordsize=16M (blocks of 2, 4, 8 and 16 MiB), uncompressed and compressed
echo 16777216 > /sys/module/zfs/parameters/zfs_max_recordsize
run zpool create -O compression=off -O atime=off z_16m $D/vda
for r in 2 4 8 16; do
  run zfs create -o recordsize=${r}M z_16m/r$r
  run ztool fill /z_16m/r$r/whole c $r 0 $((r * 1048576 * 2))
done
run zfs create -o recordsize=16M -o compression=zstd z_16m/zstd
run ztool fill /z_16m/zstd/odd c 9 0 20000000
run zfs create -o recordsize=16M -o compression=lz4 z_16m/lz4
run ztool fill /z_16m/lz4/odd c 10 0 33000000
run ztool fill /z_16m/lz4/hole c 11 50000000 100000
run zfs snapshot -r z_16m@s
run ztool fill /z_16m/r16/whole c 12 5000000 3000000
run zpool export z_16m
