//! The names of the proxy's module `sync`, by loom.
//!
//! Loom takes `SeqCst` for `AcqRel`, and would find what cannot happen. Here a load with `SeqCst` is an addition of nothing and
//! a store an exchange, which both go by the latest value: what is `SeqCst` throughout then behaves as the language says, and
//! what is weaker stays so.
//! Reference counts and tokio's channels are taken as they are: each of their operations is one step.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::atomic::Ordering::{self, Acquire, Release, SeqCst},
    task::Poll,
};

use loom::{
    future::AtomicWaker,
    sync::{
        LockResult,
        atomic::{self, AtomicBool},
    },
};
use tokio::time::Instant;

pub use loom::sync::MutexGuard;

macro_rules! atomic {
    ($name:ident of $number:ty) => {
        /// As the type of this name in the standard library.
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs, reason = "the standard library's")]
        impl $name {
            pub fn new(value: $number) -> Self {
                Self(atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $number {
                if order == SeqCst { self.0.fetch_add(0, Acquire) } else { self.0.load(order) }
            }

            pub fn store(&self, value: $number, order: Ordering) {
                if order == SeqCst {
                    self.0.swap(value, Release);
                } else {
                    self.0.store(value, order);
                }
            }

            pub fn swap(&self, value: $number, order: Ordering) -> $number {
                self.0.swap(value, order)
            }

            pub fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                self.0.fetch_add(value, order)
            }

            pub fn fetch_sub(&self, value: $number, order: Ordering) -> $number {
                self.0.fetch_sub(value, order)
            }

            pub fn compare_exchange(
                &self,
                old: $number,
                new: $number,
                then: Ordering,
                otherwise: Ordering,
            ) -> Result<$number, $number> {
                self.0.compare_exchange(old, new, then, otherwise)
            }

            pub fn fetch_update(
                &self,
                then: Ordering,
                otherwise: Ordering,
                mut update: impl FnMut($number) -> Option<$number>,
            ) -> Result<$number, $number> {
                let mut old = self.load(otherwise);
                while let Some(new) = update(old) {
                    match self.0.compare_exchange(old, new, then, otherwise) {
                        Ok(old) => return Ok(old),
                        Err(newer) => old = newer,
                    }
                }
                Err(old)
            }
        }
    };
}

atomic!(AtomicU32 of u32);
atomic!(AtomicU64 of u64);

/// A lock without poison, as `parking_lot`'s.
#[derive(Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A free lock.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let locked: LockResult<_> = self.0.lock();
        locked.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mutex")
    }
}

loom::lazy_static! {
    static ref CLOCK: Clock = Clock { up: AtomicBool::new(false), sleeper: AtomicWaker::new() };
}

struct Clock {
    up: AtomicBool,
    sleeper: AtomicWaker,
}

/// The time of a wait was over first.
#[derive(Debug)]
pub struct TimeIsUp;

/// Ends the wait of the model that has a clock: at a moment that the model checker chooses.
pub fn time_is_up() {
    CLOCK.up.store(true, Release);
    CLOCK.sleeper.wake();
}

/// As tokio's. Time is up when [`time_is_up`] says so, which one wait of a model may hear.
///
/// # Errors
/// Time was up first.
pub async fn timeout_at<F: Future>(_until: Instant, future: F) -> Result<F::Output, TimeIsUp> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        CLOCK.sleeper.register_by_ref(context.waker());
        if CLOCK.up.load(Acquire) { Poll::Ready(Err(TimeIsUp)) } else { Poll::Pending }
    })
    .await
}
