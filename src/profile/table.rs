//! The counters, a [`Site`] for each place of acquisition and kind of lock.
//!
//! The table is one piece of memory of a fixed size, which the first [`start`](super::start) allocates and which stays.
//! Threads find their site by hashing, without a lock, and count in it: so nothing is allocated where a lock is acquired
//! (which may be in an allocator), nothing is lost when a thread ends, and there is nothing to repair after a `fork`.
//! A site belongs to its place for good, also when the counters are reset.

use super::histogram::{Histogram, clear};
use super::report::Kind;
use crate::primitive::{AtomicPtr, AtomicU64, Ordering};
use crate::traced::{Holder, Place};
use core::panic::Location;
use core::ptr;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// How many sites there are: places of acquisition, each once for each kind.
pub(super) const SITES: usize = 2_048;
/// How far from where its hash points a site may be.
const PROBES: usize = 64;
/// How many places of holders a site can tell apart.
pub(super) const HOLDERS: usize = 32;

/// What is counted of one place. All bytes 0: a free site.
pub(super) struct Site {
    /// The address of the place, and what is acquired there: see [`key`]. 0: free.
    key: AtomicU64,
    /// Acquisitions without waiting that were sampled.
    pub(super) samples: AtomicU64,
    /// Waits that ended without the lock.
    pub(super) timeouts: AtomicU64,
    /// The waits, those that ended without the lock too.
    pub(super) waits: Histogram,
    /// The holds that were sampled.
    pub(super) holds: Histogram,
    pub(super) behind: [Behind; HOLDERS],
    /// The waits behind places that have no room in `behind`, or that are not known.
    pub(super) behind_others: Behind,
}

/// The waits behind one place.
pub(super) struct Behind {
    /// Where the holder has acquired the lock; the lowest bit says that it is a reader. It stays when the counters are reset.
    place: AtomicPtr<Location<'static>>,
    pub(super) waits: AtomicU64,
    pub(super) total_ns: AtomicU64,
}

/// What has found no site.
pub(super) struct Overflow {
    /// Acquisitions without waiting that were sampled.
    pub(super) samples: AtomicU64,
    pub(super) waits: AtomicU64,
    pub(super) wait_ns: AtomicU64,
}

pub(super) static OVERFLOW: Overflow =
    Overflow { samples: AtomicU64::new(0), waits: AtomicU64::new(0), wait_ns: AtomicU64::new(0) };

/// The [`SITES`], or null before the first start.
static TABLE: AtomicPtr<Site> = AtomicPtr::new(ptr::null_mut());

/// Makes the table, unless there is one.
pub(super) fn allocate() {
    if !sites().is_empty() {
        return;
    }
    let layout = const {
        match Layout::array::<Site>(SITES) {
            Ok(layout) => layout,
            Err(_) => panic!("the table is larger than the address space"),
        }
    };
    // SAFETY: the layout is not of size 0.
    let new = unsafe { alloc_zeroed(layout) }.cast::<Site>();
    if new.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    // ORDERING: Release pairs with the Acquire in `sites`: the zeros.
    let other = TABLE.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
    if other.is_err() {
        // SAFETY: allocated above with this layout, and nobody else has it.
        unsafe { dealloc(new.cast(), layout) };
    }
}

/// The table; empty if there is none yet.
pub(super) fn sites() -> &'static [Site] {
    // ORDERING: Acquire pairs with the Release in `allocate`.
    let table = TABLE.load(Ordering::Acquire);
    if table.is_null() {
        return &[];
    }
    // SAFETY: it points to `SITES` sites, of which all zeros are a value, that are never deallocated.
    unsafe { core::slice::from_raw_parts(table, SITES) }
}

/// A place and what is acquired there, as a number other than 0.
fn key(place: Place, kind: Kind) -> u64 {
    // No address of a process has more than 60 bits.
    (ptr::from_ref(place.0).expose_provenance() as u64) << 4 | kind as u64
}

/// The site of a place; `None` if there is no room for it.
pub(super) fn site(place: Place, kind: Kind) -> Option<&'static Site> {
    let key = key(place, kind);
    // The golden ratio's bits spread neighbours: Knuth, volume 3, section 6.4.
    let first = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
    let sites = sites();
    (0..PROBES).find_map(|probe| {
        let site = sites.get((first + probe) % SITES)?;
        // ORDERING: Relaxed: a key tells of a `Location`, which was there before any thread.
        let mut found = site.key.load(Ordering::Relaxed);
        if found == 0 {
            let set = site.key.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed);
            found = set.err().unwrap_or(key);
        }
        (found == key).then_some(site)
    })
}

impl Site {
    /// Whose site this is; `None` if it is free.
    pub(super) fn owner(&self) -> Option<(Place, Kind)> {
        let key = self.key.load(Ordering::Relaxed);
        let kind = *Kind::ALL.get(key as usize & 15)?;
        let place = ptr::with_exposed_provenance::<Location<'static>>((key >> 4) as usize);
        // SAFETY: null, or the address of a `&'static Location` (`key`).
        unsafe { place.as_ref() }.map(|place| (Place(place), kind))
    }

    /// Counts a wait, behind a holder that has acquired the lock at that place.
    pub(super) fn record_wait(&self, ns: u64, behind: Option<Holder>) {
        self.waits.record(ns);
        let known = behind.and_then(|Holder { place, is_shared }| {
            let place =
                ptr::from_ref(place.0).cast_mut().map_addr(|it| it | usize::from(is_shared));
            self.behind.iter().find(|behind| {
                // ORDERING: Relaxed, as for the keys.
                let mut found = behind.place.load(Ordering::Relaxed);
                if found.is_null() {
                    let (new, set) = (place, Ordering::Relaxed);
                    let set = behind.place.compare_exchange(ptr::null_mut(), new, set, set);
                    found = set.err().unwrap_or(place);
                }
                found == place
            })
        });
        let behind = known.unwrap_or(&self.behind_others);
        behind.waits.fetch_add(1, Ordering::Relaxed);
        behind.total_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn reset(&self) {
        clear(&self.samples);
        clear(&self.timeouts);
        self.waits.reset();
        self.holds.reset();
        for behind in self.behind.iter().chain([&self.behind_others]) {
            clear(&behind.waits);
            clear(&behind.total_ns);
        }
    }
}

impl Behind {
    pub(super) fn holder(&self) -> Option<Holder> {
        let tagged = self.place.load(Ordering::Relaxed);
        // SAFETY: null, or made of a `Place` (`Site::record_wait`), whose lowest bit is 0.
        let place = unsafe { tagged.map_addr(|it| it & !1).as_ref() };
        place.map(|place| Holder { place: Place(place), is_shared: tagged.addr() & 1 == 1 })
    }
}

/// Sets all counters to 0. What a thread counts meanwhile may stay or not.
pub(super) fn reset() {
    for site in sites().iter().filter(|site| site.owner().is_some()) {
        site.reset();
    }
    OVERFLOW.samples.store(0, Ordering::Relaxed);
    OVERFLOW.waits.store(0, Ordering::Relaxed);
    OVERFLOW.wait_ns.store(0, Ordering::Relaxed);
}

/// Takes their places from all sites.
#[cfg(test)]
pub(super) fn free_for_tests() {
    reset();
    for site in sites() {
        site.key.store(0, Ordering::Relaxed);
        for behind in &site.behind {
            behind.place.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }
}
