//! Sockets: accepting, finding out where a connection was going and what it speaks, and forwarding bytes.

pub mod accept;
pub mod client_stream;
pub mod connections;
pub mod detect;
pub mod listen;
pub mod opaque;
pub mod original_dst;
pub mod relay;
