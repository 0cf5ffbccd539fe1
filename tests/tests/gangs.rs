//! Pools without large free extents: data and metadata in gang blocks, gangs within gangs, written, logged, freed and read again.

use tests::model::{Limits, Rng};
use tests::rig::Rig;
use tests::world::World;
use zfs::spa::ImportOptions;

#[test]
fn everything_can_be_a_gang() {
    let (rig, mut pool) = Rig::with_pool(61).unwrap();
    let limits = Limits { files: 60, length: 200_000, file_size: 1 << 20, long_names: false };
    let mut rng = Rng::new(61);
    let (mut state, mut next) = (None, 0);
    for round in 0..3 {
        // Members of 128 KiB blocks are cut three times before they fit.
        pool.force_gangs([4096, 1024, 16 << 10][round]);
        let mut world = match state.take() {
            None => World::new(pool.clone(), limits),
            Some(state) => World::resume(pool.clone(), state, limits, next),
        };
        for _ in 0..120 {
            world.step(&mut rng).unwrap();
        }
        world.check().unwrap();
        world.unmount_all().unwrap();
        (state, next) = (Some(world.state().clone()), world.next());
        drop(world);
        let report = pool.verify(&mut |_| ()).unwrap();
        assert!(report.is_clean(), "{report:?}");
        rig.close(pool).unwrap();
        pool = rig.import(ImportOptions::default()).unwrap();
    }
    World::resume(pool.clone(), state.unwrap(), limits, next).check().unwrap();
}
