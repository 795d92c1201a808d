//! The proxy's HTTP/1.1, and the second reader that its own tests compare it with, compiled alone (by links to their files): with
//! the counters of coverage the whole proxy would take minutes to build.
#![allow(dead_code, reason = "not all of it is used without the rest")]

extern crate self as firebreak_proxy;

pub mod h1;
mod oracle;

/// See the oracle.
pub fn requests(bytes: &[u8]) {
    oracle::check_requests(bytes);
}

/// See the oracle.
pub fn responses(bytes: &[u8]) {
    oracle::check_response(bytes);
}
