//! What the operator and the injector both need and neither should write twice: logging ([`log`]), an orderly end
//! ([`shutdown`]), the admin port with its metrics and health ([`admin`]), and TLS with
//! certificates that change while a server runs ([`tls`]).
//!
//! The proxy does not use it: its admin port belongs to its own control thread, and it links as little as it can.

pub mod admin;
pub mod log;
pub mod shutdown;
pub mod tls;
