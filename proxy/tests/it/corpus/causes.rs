//! The table of causes.

mod callee;
mod caller;
mod experiments;
mod limits;
mod network;

use firebreak_proxy::verdict::{Domain, Reason};

use super::{Before, Caller, Cause, Protocol, Script, Setup, Told, peers::Act};

const HTTP1: &[Protocol] = &[Protocol::Http1];
const HTTP2: &[Protocol] = &[Protocol::Http2];
const GRPC: &[Protocol] = &[Protocol::Grpc];
/// HTTP/2 and what is built on it.
const STREAMS: &[Protocol] = &[Protocol::Http2, Protocol::Grpc];
const NOT_GRPC: &[Protocol] = &[Protocol::Http1, Protocol::Http2];
const ANY: &[Protocol] = &Protocol::ALL;

/// A callee that answers, a policy that wants nothing, and a caller that waits.
const PLAIN: Cause = Cause {
    name: "",
    on: ANY,
    policy: "{}",
    faults: "",
    duration: "1h",
    proxy: Setup::Usual,
    peer: Script::Does(Act::Answer(200, &[])),
    before: Before::Nothing,
    caller: Caller::Calls(&[]),
    reason: Reason::Internal,
    domain: Domain::Mesh,
    told: Told::Caller,
};

/// Reasons without a cause, and why.
pub(super) const LEFT_OUT: &[(Reason, &str)] = &[
    (
        Reason::UpgradeFailed,
        "the HTTP library hands both connections over as soon as the callee's agreement is read; only a caller that leaves \
         in that moment causes it",
    ),
    (
        Reason::OutOfResources,
        "the process would have to be without file descriptors or memory, and with it the tests beside this one",
    ),
    (Reason::Internal, "a defect of the proxy, of which none is known"),
];

pub(super) fn all() -> impl Iterator<Item = &'static Cause> {
    [network::CAUSES, callee::CAUSES, caller::CAUSES, limits::CAUSES, experiments::CAUSES].into_iter().flatten()
}
