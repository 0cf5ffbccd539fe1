#IMGS 64M 1
# exercises: accounts and quotas of users, groups and projects with what zfs userspace, groupspace and projectspace print; immutable and append-only files; POSIX ACLs and aclmode; setgid; xattrs=sa and dir with spill blocks
A="/host/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /host/lib/x86_64-linux-gnu /host/usr/bin/chattr"
run zpool create -O compression=off -O atime=off w_owners $D/vda
run zfs create w_owners/fs; cd /w_owners/fs
for u in 0 1000 1001 65534 4000000000; do mkdir u$u; for i in 1 2 3; do ztool fill u$u/f$i A a 0 $((i*20000)); chown $u:$((u/10)) u$u/f$i; done; done
mkdir p7 p8; run zfs project -p 7 -s p7; run zfs project -p 8 -s p8; ztool fill p7/a A a 0 100000; ztool fill p7/b A a 0 50000; ztool fill p8/c A a 0 30000; mkdir p7/sub; echo x >p7/sub/d
run zfs set userquota@1000=10M userquota@1001=100K groupquota@100=20M userobjquota@1000=100 groupobjquota@100=77 projectquota@7=5M projectobjquota@8=50 userquota@777=1G w_owners/fs
run zfs create -o acltype=posix -o xattr=sa w_owners/acl; cd /w_owners/acl
echo x >f; mkdir dir; setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff f || exit 70
setfattr -n system.posix_acl_default -v 0x0200000001000700ffffffff02000500e803000004000500ffffffff10000700ffffffff20000500ffffffff dir || exit 71
echo y >dir/inherits; mkdir dir/sub
run zfs create w_owners/flags; cd /w_owners/flags
echo immutable >immutable; echo append >append; echo nodump >nodump; mkdir immdir; echo in >immdir/in; $A +i immutable immdir || exit 72; $A +a append || exit 73; $A +d nodump || exit 74
mkdir sgid; chown 0:50 sgid; chmod 2775 sgid; echo x >sgid/f; mkdir sgid/d
run zfs create -o xattr=sa w_owners/sa; run zfs create -o xattr=on w_owners/dir; for d in sa dir; do cd /w_owners/$d; for i in 1 2 3 4; do echo $i >f$i; for k in $(seq $((i*i*3))); do setfattr -n user.attribute-$k -v "$(printf "%0$((k*20))d" $k)" f$i; done; done; setfattr -x user.attribute-2 f2; done
cd /; sync; zpool sync
mkdir -p /share/m
for v in userspace groupspace projectspace; do for ds in fs flags; do for o in -Hpn -Hn -H -p '-Hp -o name,used,quota,objused,objquota' '-n -S used' '-n -s objused'; do echo "## zfs $v $o w_owners/$ds"; zfs $v $o w_owners/$ds; done; done; done >/share/m/w_owners.space.txt
run zpool export w_owners
