#IMGS 64M 1
# exercises: gang blocks of file data and of metadata, nested ones as well (metaslab_force_ganging), with checksums and compressions of several kinds, a snapshot and freed gang blocks
P=/sys/module/zfs/parameters; echo 1024 >$P/metaslab_force_ganging
[ ! -e $P/metaslab_force_ganging_pct ] || echo 60 >$P/metaslab_force_ganging_pct
run zpool create -O compression=lz4 -O atime=off x_gang $D/vda
for i in 1 2 3; do run zfs create x_gang/t$i; done
run zfs create -o recordsize=4K -o checksum=sha256 x_gang/small; run zfs create -o compression=off -o recordsize=1M x_gang/big
for d in t1 t2 t3 small big; do for n in 513 5000 131072 700000; do ztool fill /x_gang/$d/c$n c $d 0 $n; done; ztool fill /x_gang/$d/random i $d 0 30000; sync; done
mkdir /x_gang/t1/dir; for i in $(seq 400); do echo $i >/x_gang/t1/dir/a-name-that-is-so-long-that-the-directory-needs-a-fat-zap-$i; done; sync
run zfs snapshot -r x_gang@s; rm -r /x_gang/t2/*; ztool fill /x_gang/small/random i other 10000 10000; sync
run zpool export x_gang
