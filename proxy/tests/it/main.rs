//! The whole proxy over loopback: real sockets, a scripted callee, and every request accounted for.
#![allow(missing_docs, reason = "tests are read, not called")]

mod bulkheads;
mod faults;
mod lifecycle;
mod protocols;
mod retries;
mod support;
mod timeouts;
