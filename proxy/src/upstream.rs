//! Connections to callees: opened, shared, kept and given up.

pub mod connect;
pub mod pool;
pub mod received;
pub mod send;
