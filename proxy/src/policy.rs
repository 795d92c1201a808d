//! The protections, each in a file of its own: a compiled form, and the decisions it takes. No I/O, no tasks; time is
//! passed in, so that a test owns it.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod concurrency;
pub mod fault;
pub mod health;
pub mod hedge;
pub mod rate;
pub mod retry;
pub mod shadow;
pub mod timeout;
pub mod window;
