//! How config gets in: bytes → [`firebreak_crds::wire::decode`] → last good form of what is broken → [`compile`] → swap.

pub mod compile;
pub mod endpoints;
pub mod file;
pub mod publish;
