//! What proves Firebreak: the application that stands in for services in tests ([`app`]), the harness that drives a cluster
//! ([`cluster`]), and what tests need to judge what they see ([`chance`], [`wait`]).

pub mod app;
pub mod chance;
pub mod cluster;
pub mod wait;
