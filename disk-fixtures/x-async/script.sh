#IMGS 128M 1
# exercises: a file system and a volume whose destruction is not finished (async_destroy: bptree, freeing)
run zpool create -O compression=off -O atime=off x_async $D/vda
run zfs create -o recordsize=4k x_async/gone
run ztool fill /x_async/gone/large c 1 0 8388608
run zfs create -o recordsize=512 x_async/gone2
run ztool fill /x_async/gone2/small c 2 0 1048576
run zfs create -o recordsize=8k x_async/stays
run ztool gen /x_async/stays one edge text
run zfs snapshot x_async/stays@s
run sync; run zpool sync
echo 40 > /sys/module/zfs/parameters/zfs_async_block_max_blocks
run zfs destroy x_async/gone
run zfs destroy x_async/gone2
run zpool get -H freeing x_async
run zpool export x_async
