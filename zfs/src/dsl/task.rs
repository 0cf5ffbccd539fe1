//! Sync tasks: how names and accounts change. Source: `module/zfs/dsl_synctask.c`.

use super::host::Slop;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use platform::sync::Mutex;

impl DslPool {
    /// Runs `task` in the sync thread with the names locked, and waits. It must check everything before it changes anything.
    pub(crate) fn run_task<T: Send + 'static>(
        &self,
        slop: Slop,
        task: impl FnOnce(&Arc<DslPool>, &Tx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.host().read_only() {
            return Err(Error::ReadOnly);
        }
        let pool = self.me();
        let out = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&out);
        self.host().sync_task(
            slop,
            Box::new(move |tx| {
                let _config = pool.write_config();
                *slot.lock() = Some(task(&pool, tx)?);
                Ok(())
            }),
        )?;
        let value = out.lock().take();
        value.ok_or(Error::Invalid("a sync task was dropped"))
    }
}
