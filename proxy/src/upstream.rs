//! Connections to callees: opened, shared, kept and given up.

pub mod check;
pub mod checker;
pub mod connect;
pub mod exclusive;
pub mod keep_alive;
pub mod pool;
pub mod send;
pub mod traffic;
