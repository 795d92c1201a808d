//! HTTP/1.1 as a message format and on a connection (RFC 9112): at both sides of the proxy, for what passes through it.
//!
//! [`head`], [`framing`] and [`chunked`] are pure: bytes in, what they mean out. [`conn`] is a connection with its buffers, [`body`]
//! reads a message's body from one, [`sending`] writes a message to one. Nothing here has a task of its own: a request's own task
//! reads and writes both connections.
//!
//! What is ambiguous is refused, so that nobody behind the proxy can read a message otherwise than it was read here: two lengths, a
//! length beside a transfer coding, codings other than `chunked`, fields folded over lines, no or several hosts (RFC 9112, 11.2).

pub mod body;
pub mod chunked;
pub mod conn;
pub mod framing;
pub mod head;
pub mod sending;
pub mod spelling;

pub use self::{
    body::{Body, BodyError, Incoming},
    conn::Conn,
    framing::Framing,
    head::{HeadError, RequestHead, ResponseHead},
    sending::{SendFailed, Sending},
    spelling::Spelling,
};

/// Largest head of a message, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most fields of a head.
pub const MAX_FIELDS: usize = 100;
