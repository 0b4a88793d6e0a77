//! Type-stable slots: memory that is handed out by number, reused, and never unmapped.
//!
//! A completion may be reaped in a signal handler, and a late reader (a waiter's futex word, the
//! handle in an aiocb that was submitted again) may look at a slot that has changed hands. So
//! slots come from mmap, not from the program's allocator; taking and giving back is lock-free;
//! and a slot stays what it is for ever. Who holds a number from before the slot changed hands
//! finds another generation or a state that says so.
//!
//! Slots lie in chunks of doubling size: a small program touches a few pages, a large one
//! never copies.

use crate::sys::threads::map_zeroed;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// A slot's number, from 1; 0 is "none" wherever numbers are stored.
pub type Number = u32;

/// What can live in a pool.
///
/// # Safety
/// All-zero bytes are a valid value, and every member is an atomic (slots are shared by number).
pub unsafe trait Slot: Sync {
    /// The free list's link; the pool's own while the slot is free.
    fn free_link(&self) -> &AtomicU32;
}

const FIRST_CHUNK: u32 = 64;
const CHUNKS: usize = 24;

/// Slots of `T`. All methods are async-signal-safe.
pub struct Pool<T> {
    chunks: [AtomicPtr<T>; CHUNKS],
    /// The last slot given back (low half) and a count of changes (high half): the count keeps a
    /// pop from mistaking a head that went and came back for one that never moved.
    free: AtomicU64,
    /// Slots ever handed out: numbers above have no memory yet, perhaps.
    used: AtomicU32,
    owns: PhantomData<T>,
}

impl<T: Slot> Pool<T> {
    pub const fn new() -> Self {
        Pool {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            free: AtomicU64::new(0),
            used: AtomicU32::new(0),
            owns: PhantomData,
        }
    }

    /// Chunk and place in it of a slot.
    fn place(number: Number) -> (usize, usize) {
        let from_base = number - 1 + FIRST_CHUNK;
        let chunk = from_base.ilog2() - FIRST_CHUNK.ilog2();
        (chunk as usize, (from_base - (FIRST_CHUNK << chunk)) as usize)
    }

    /// The slot, when there ever was one of that number.
    #[inline]
    pub fn get(&self, number: Number) -> Option<&T> {
        if number == 0 || number > self.used.load(Ordering::Acquire) {
            return None;
        }
        let (chunk, place) = Self::place(number);
        let base = self.chunks.get(chunk)?.load(Ordering::Acquire);
        // SAFETY: `used` grows only over mapped chunks, which stay; zeroed memory is a valid T (Slot).
        unsafe { base.add(place).as_ref() }
    }

    /// How many numbers were ever handed out: for the rare walks over all slots.
    pub fn used(&self) -> Number {
        self.used.load(Ordering::Acquire)
    }

    /// A slot for the caller alone, with what its last user left in it. `None`: memory is out.
    #[inline]
    pub fn take(&self) -> Option<Number> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let number = head as u32;
            let Some(slot) = self.get(number) else {
                return self.grow();
            };
            let next = slot.free_link().load(Ordering::Relaxed);
            let changed = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            // Acquire pairs with give's Release: we see the slot as its last user left it.
            match self.free.compare_exchange_weak(head, changed, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(number),
                Err(now) => head = now,
            }
        }
    }

    /// Gives back a slot that was taken; the caller never uses the number again.
    #[inline]
    pub fn give(&self, number: Number) {
        let Some(slot) = self.get(number) else { return };
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            slot.free_link().store(head as u32, Ordering::Relaxed);
            let changed = (head >> 32).wrapping_add(1) << 32 | u64::from(number);
            match self.free.compare_exchange_weak(head, changed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    #[cold]
    fn grow(&self) -> Option<Number> {
        loop {
            let used = self.used.load(Ordering::Acquire);
            let (chunk, _) = Self::place(used + 1);
            let cell = self.chunks.get(chunk)?;
            if cell.load(Ordering::Acquire).is_null() {
                let bytes = (FIRST_CHUNK as usize * size_of::<T>()) << chunk;
                let memory = map_zeroed(bytes)?;
                let new = memory.as_ptr().cast::<T>();
                // Another thread may have been faster.
                if cell
                    .compare_exchange(core::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire)
                    .is_err()
                {
                    // SAFETY: mapped a moment ago and shown to nobody.
                    unsafe { crate::sys::threads::unmap(memory, bytes) };
                }
            }
            if self.used.compare_exchange(used, used + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Some(used + 1);
            }
        }
    }
}

/// What cells are made of.
#[cfg(not(plain_cells))]
use core::sync::atomic::{AtomicU32 as Memory32, AtomicU64 as Memory64};
/// For ThreadSanitizer (`tests/checkers.rs`): memory that promises nothing, so that it reports each use of a cell which nothing
/// orders. Of atomics it would say nothing.
#[cfg(plain_cells)]
use plain::{Memory32, Memory64};

macro_rules! member {
    ($(#[$doc:meta])* $name:ident, $value:ty, $memory:ty) => {
        $(#[$doc])*
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name($memory);

        impl $name {
            #[inline]
            pub fn get(&self) -> $value {
                self.0.load(Ordering::Relaxed)
            }
            #[inline]
            pub fn set(&self, value: $value) {
                self.0.store(value, Ordering::Relaxed);
            }
        }
    };
}

member! {
    /// A 32-bit member of a slot. Relaxed: what orders it is the way by which the slot itself is handed
    /// on (the engine's lock, the kernel's ring, a state with Release).
    Cell32, u32, Memory32
}
member! {
    /// A 64-bit member of a slot; see [`Cell32`].
    Cell64, u64, Memory64
}
member! {
    /// A member that others than the slot's holder look at, too, and then look whether the slot is what they took it for.
    Open32, u32, AtomicU32
}
member! {
    /// See [`Open32`].
    Open64, u64, AtomicU64
}

impl Cell32 {
    pub const fn new(value: u32) -> Self {
        Cell32(Memory32::new(value))
    }
}

impl Cell64 {
    pub const fn new(value: u64) -> Self {
        Cell64(Memory64::new(value))
    }
}

#[cfg(plain_cells)]
mod plain {
    use core::cell::UnsafeCell;
    use core::sync::atomic::Ordering;

    pub type Memory32 = Memory<u32>;
    pub type Memory64 = Memory<u64>;

    #[derive(Default)]
    #[repr(transparent)]
    pub struct Memory<T>(UnsafeCell<T>);

    // SAFETY: the ordering that the cells' users claim, which this build is there to check.
    unsafe impl<T> Sync for Memory<T> {}

    impl<T: Copy> Memory<T> {
        pub const fn new(value: T) -> Self {
            Memory(UnsafeCell::new(value))
        }
        pub fn load(&self, _: Ordering) -> T {
            // SAFETY: as above.
            unsafe { *self.0.get() }
        }
        pub fn store(&self, value: T, _: Ordering) {
            // SAFETY: as above.
            unsafe { *self.0.get() = value }
        }
    }
}
