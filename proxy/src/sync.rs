//! What workers share their state by, under one name: `tests/loom` compiles the files of `policy` that use it against a module of
//! the same names, whose atomics and lock go through every order of events.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::time::timeout_at;
