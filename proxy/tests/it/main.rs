//! The whole proxy over loopback: real sockets, a scripted callee, and every request accounted for.
#![allow(missing_docs, reason = "tests are read, not called")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value, reason = "a test fails by panicking")]

mod balance;
mod breakers;
mod bulkheads;
mod corpus;
mod evidence;
mod fault_bodies;
mod fault_inbound;
mod fault_positions;
mod faults;
mod grpc_retries;
mod health;
mod hedging;
mod http1;
mod http1_broken;
mod http2;
mod inbound_limit;
mod inbound_local;
mod layers;
mod lifecycle;
mod malformed;
mod observe;
mod outliers;
mod protocols;
mod rate_limits;
mod recorder;
mod replay_bound;
mod retries;
mod slow_callers;
mod support;
mod timeouts;
mod tracing;
mod unread_log;
mod uploads;
mod waits;
