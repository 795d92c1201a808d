//! Where the endpoints of callees are known from.
//!
//! The compiler asks one source and does not care which. Where that knows nothing of a port, calls go to the address that the
//! caller called, and what a policy says of endpoints has no effect.

use std::{borrow::Cow, fmt::Debug};

use firebreak_crds::wire::{Endpoint, Port};

/// Knows the endpoints of callees.
pub trait EndpointSource: Debug + Send {
    /// The endpoints of a port of the Service `service` (`namespace/name`); `None` where they are not known, and an empty list
    /// where it is known that there are none.
    fn endpoints<'a>(&'a self, service: &str, port: &'a Port) -> Option<Cow<'a, [Endpoint]>>;
}

/// The endpoints that the config itself names, as it does in local mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromConfig;

impl EndpointSource for FromConfig {
    fn endpoints<'a>(&'a self, _service: &str, port: &'a Port) -> Option<Cow<'a, [Endpoint]>> {
        port.endpoints.as_deref().map(Cow::Borrowed)
    }
}
