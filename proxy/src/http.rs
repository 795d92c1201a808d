//! What happens to an HTTP request. [`pipeline`] shows the whole order; each stage is a call into one module.

mod attempt;
pub mod call;
pub mod deadline;
pub mod enter;
pub mod faults;
pub mod grpc;
pub mod headers;
mod hedge;
pub mod lineage;
mod observe;
pub mod pipeline;
pub mod present;
pub mod replay;
pub mod reply;
pub mod reply_body;
pub mod send_body;
pub mod serve;
pub mod spoil;
pub mod tries;
pub mod upgrade;
