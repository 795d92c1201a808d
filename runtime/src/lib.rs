//! What the operator and the injector both need and neither should write twice: logging ([`log`]), an orderly end
//! ([`shutdown`]), and the admin port with its metrics and health ([`admin`]).
//!
//! The proxy does not use it: its admin port belongs to its own control thread, and it links as little as it can.

pub mod admin;
pub mod log;
pub mod shutdown;
