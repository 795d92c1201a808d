//! The test application: one small program that is service or caller, as its arguments say.
//!
//! As a service it answers HTTP/1.1, HTTP/2, gRPC and WebSocket on one port, echoes TCP on a second and speaks first on a third.
//! How it answers is set by the request or, for all requests that do not say, at run time through a port that only the pod
//! itself reaches: a test makes a service fail without touching its pod. It keeps a record of each try it has seen and of
//! how the try ended, so that a test can tell what the proxy did from what it says it did.
//!
//! As a caller it sends requests, or holds a stream open, and prints what happened as JSON. Tests run it in a pod by `kubectl
//! exec`, which works in any cluster, wherever the test process runs.

pub mod behaviour;
pub mod call;
pub mod grpc;
pub mod hold;
pub mod record;
pub mod serve;
pub mod tcp;

/// Where the service answers HTTP/1.1, HTTP/2, gRPC and WebSocket.
pub const HTTP_PORT: u16 = 8080;
/// Where the service sends back what it receives.
pub const ECHO_PORT: u16 = 9000;
/// Where the service speaks first, as SMTP do.
pub const GREETING_PORT: u16 = 2525;
/// Where the service is told how to behave; bound to loopback.
pub const CONTROL_PORT: u16 = 8079;
/// Where the service is always well: for probes, which are neither recorded nor troubled.
pub const HEALTH: &str = "/healthz";
/// What the service says on [`GREETING_PORT`] before it is spoken to.
pub const GREETING: &str = "220 ready\r\n";
