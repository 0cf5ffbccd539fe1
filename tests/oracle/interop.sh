# interop.sh — guest script: OpenZFS checks a pool that Tarn wrote, writes to it, and checks it again.
#   oracle run -s SHARE -a 'POOL SEED' interop.sh IMG...      SHARE holds check-pool.sh
# Output: SHARE/check-before and SHARE/check-after, as check-pool.sh leaves them. Exit: check-pool.sh's, or 30 if writing failed.
. lib.sh
POOL=$1; RANDOM=$(($2 % 32768)); W=/mnt/write; mkdir -p $W
bash /share/check-pool.sh || exit $?
mv /share/check /share/check-before
die(){ echo "INTEROP-FAIL: $*"; exit 30; }
# do CMD...: says what it does, and must succeed
do_(){ echo "+ $*"; "$@" || die "$*"; }
pick(){ local -n list=$1; picked=${list[$((RANDOM % ${#list[@]}))]}; }
zpool import -f -N -d /dev/od $POOL || die import

# Random writes to one mounted file system.
write_files(){
	local n f files dirs
	for n in $(seq 1 12); do
		mapfile -d '' files < <(find . -xdev -type f -print0 | sort -z); mapfile -d '' dirs < <(find . -xdev -type d -print0 | sort -z)
		pick dirs; d=$picked; new="$d/oz-$RANDOM-$n"
		[ ${#files[@]} -gt 0 ] && { pick files; f=$picked; } || f=
		case $((RANDOM % 12)) in
			0|1|2) do_ dd if=/dev/urandom of="$new" bs=$((1 + RANDOM)) count=$((1 + RANDOM % 8)) status=none;;
			3) do_ mkdir "$new"; do_ cp -a /etc/. "$new/";;
			4) [ -z "$f" ] || do_ dd if=/dev/urandom of="$f" bs=$((1 + RANDOM % 9000)) seek=$((RANDOM % 20)) count=2 conv=notrunc status=none;;
			5) [ -z "$f" ] || do_ rm "$f";;
			6) [ -z "$f" ] || do_ mv "$f" "$new";;
			7) [ -z "$f" ] || do_ ln "$f" "$new";;
			8) [ -z "$f" ] || do_ truncate -s $((RANDOM * 4)) "$f";;
			9) [ -z "$f" ] || do_ setfattr -n user.oz$n -v "value $RANDOM" "$f";;
			10) [ -z "$f" ] || { do_ truncate -s 300000 "$f"; do_ fallocate -p -o $((RANDOM * 2)) -l $((RANDOM * 4)) "$f"; };;
			11) do_ ln -s "target $RANDOM" "$new";;
		esac
	done
}
mapfile -t heads < <(zfs list -H -r -t filesystem -o name $POOL)
for ds in "${heads[@]}"; do
	mount -t zfs -o zfsutil $ds $W || mount -t zfs $ds $W || die "mount $ds"
	cd $W && write_files; cd /
	[ $((RANDOM % 2)) = 0 ] && do_ zfs snapshot $ds@oz-$RANDOM
	umount $W || die "umount $ds"
done
# Random operations on datasets. What has dependents may refuse to be destroyed.
for n in 1 2 3 4 5; do
	mapfile -t heads < <(zfs list -H -r -t filesystem -o name $POOL); pick heads; ds=$picked
	mapfile -t snaps < <(zfs list -H -r -t snapshot -o name $POOL); [ ${#snaps[@]} -gt 0 ] && { pick snaps; s=$picked; } || s=
	case $((RANDOM % 7)) in
		0) do_ zfs snapshot -r $ds@oz$n-$RANDOM;;
		1) [ -z "$s" ] || { echo "+ zfs destroy $s"; zfs destroy $s 2>/dev/null || echo "  (kept)"; };;
		2) [ -z "$s" ] || [ ${#heads[@]} -gt 8 ] || do_ zfs clone $s $POOL/oz-clone-$n-$RANDOM;;
		3) [ "$(zfs get -H -o value origin $ds)" = - ] || do_ zfs promote $ds;;
		4) do_ zfs set compression=$([ $((RANDOM % 2)) = 0 ] && echo lz4 || echo gzip-2) $ds;;
		5) [ ${#heads[@]} -gt 8 ] || do_ zfs create $POOL/oz-new-$n-$RANDOM;;
		6) last=$(zfs list -H -d 1 -t snapshot -s createtxg -o name $ds | tail -1); [ -z "$last" ] || do_ zfs rollback $last;;
	esac
done
zfs unmount -a 2>/dev/null
pexport $POOL || die export
bash /share/check-pool.sh || exit $?
mv /share/check /share/check-after
