//! The proxy beside every pod: it accepts what the pod's application sends and receives, protects it as the policies say,
//! and gives a reason for every failure.
//!
//! ```text
//! net::accept → net::detect → http::serve → http::pipeline (one function) → upstream → reply → telemetry
//! config::file ─► config::publish ─► config::compile ─► snapshot (one atomic pointer)
//! ```
//!
//! [`Proxy`] is the whole of it as a library; the binary adds the command line, local mode runs it on a laptop.

pub mod admin;
pub mod args;
pub mod aside;
pub mod boot;
pub mod clock;
pub mod config;
pub mod h1;
pub mod http;
pub mod net;
pub mod policy;
pub mod redirect;
pub mod route;
pub mod sidecar;
pub mod snapshot;
mod sync;
pub mod telemetry;
pub mod upstream;
pub mod verdict;
pub mod woken;
pub mod worker;

pub use crate::{
    boot::{Identity, Listener, Proxy, Settings, StartError},
    config::publish::Report,
};
