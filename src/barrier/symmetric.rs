//! Everywhere else, under `--cfg lockword_symmetric`, and in the model: a fence on both sides.

use super::Heavy;
use crate::primitive::{Ordering, fence};

/// A full fence: the unlocker's half of Dekker's protocol.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(lockword_loom)]
    if crate::primitive::model_settings::no_light() {
        return;
    }
    // ORDERING: SeqCst, the partner of the fence in `heavy` (StoreLoad on both sides).
    fence(Ordering::SeqCst);
}

/// A full fence: the parker's half of Dekker's protocol.
pub(crate) fn heavy() -> Heavy {
    // ORDERING: SeqCst, the partner of the fence in `light`.
    fence(Ordering::SeqCst);
    Heavy::Done
}

/// Nothing to prepare.
#[cfg(not(lockword_loom))]
pub(crate) fn prepare() -> Heavy {
    Heavy::Done
}
