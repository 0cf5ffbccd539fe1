#IMGS 64M 4
# exercises: devices that were taken out of service (zpool offline, offline -f) before data was written: DTLs, degraded vdevs
run zpool create -O compression=lz4 -O atime=off y_offline mirror $D/vda $D/vdb $D/vdc
run ztool gen /y_offline one edge text
run zpool sync
run zpool offline y_offline $D/vdb
run zpool offline -f y_offline $D/vdc
run zpool attach y_offline $D/vda $D/vdd
run zpool wait -t resilver y_offline
run rm /y_offline/text/text-1m.txt
run ztool gen /y_offline two zeros links
run zpool status y_offline
run zpool export y_offline
