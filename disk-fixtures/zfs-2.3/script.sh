#IMGS 64M 1
# Made by OpenZFS 2.3.2: features and properties as `zpool create` gives them. One directory is a micro ZAP of more than 128 KiB
# (zap_micro_max_size=1048576).
run zpool create z_23 $D/vda
run mkdir /z_23/big /z_23/d
run ztool fill /z_23/d/text t 1 0 100000
run ztool fill /z_23/d/random i 2 0 9000
run bash -c 'for i in $(seq 2200); do echo /z_23/big/f$i; done | xargs -n 1 ln /z_23/d/random'
sync
zpool sync z_23
run cp --reflink=always /z_23/d/text /z_23/d/cloned
run setfattr -n user.a -v value /z_23/d/text
run zfs create -o checksum=blake3 -o longname=on z_23/fs
run ztool fill /z_23/fs/f t 3 0 60000
run sh -c 'echo long >/z_23/fs/$(printf %01000d 7)'
run zfs snapshot z_23/fs@s
run ztool fill /z_23/fs/f t 4 0 1000
run zfs clone z_23/fs@s z_23/clone
run ztool fill /z_23/clone/new t 5 0 3000
run zpool export z_23
