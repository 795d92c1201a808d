//! Which plan a request follows: by path, method and header.

pub mod matcher;
