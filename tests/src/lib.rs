//! What proves Firebreak: the application that stands in for services in tests ([`app`]) and the harness that drives a
//! cluster from the test process.

pub mod app;
pub mod wait;
