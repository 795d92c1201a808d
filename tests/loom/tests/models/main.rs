//! What must hold of the state that workers share, in every order of events.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails so")]

mod breaker;
mod bulkhead;
mod concurrency;
mod counts;
