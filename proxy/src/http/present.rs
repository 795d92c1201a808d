//! Which fields a request's head has of those that the proxy asks for: one look at each name, where most heads have none of them and
//! to look each up by its hash would cost more than all else that is done with the head.

use http::HeaderMap;

/// A set of names. A field that is in it may have been removed since; one that is not has not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

/// A name that may be [`Present`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Any that concerns one hop only, or may.
    HopByHop,
    /// `upgrade`.
    Upgrade,
    /// `content-type`.
    ContentType,
    /// `x-request-id`.
    RequestId,
    /// `traceparent`.
    Traceparent,
    /// Any that says how much time is left.
    Deadline,
    /// That of them which is Envoy's.
    EnvoyTimeout,
    /// `firebreak-attempt`.
    Attempt,
}

impl Present {
    /// Of a head with these fields.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |set, name| set | Self::by_name(name.as_str()).0))
    }

    /// Whether a field has come.
    pub fn has(self, field: Field) -> bool {
        self.0 & Self::one(field).0 != 0
    }

    const fn one(field: Field) -> Self {
        Self(1 << field as u16)
    }

    const fn and(self, field: Field) -> Self {
        Self(self.0 | Self::one(field).0)
    }

    fn by_name(name: &str) -> Self {
        match name {
            "connection" | "transfer-encoding" | "te" | "keep-alive" | "proxy-connection" | "http2-settings" => {
                Self::one(Field::HopByHop)
            }
            "upgrade" => Self::one(Field::HopByHop).and(Field::Upgrade),
            "content-type" => Self::one(Field::ContentType),
            "x-request-id" => Self::one(Field::RequestId),
            "traceparent" => Self::one(Field::Traceparent),
            "firebreak-deadline-ms" | "grpc-timeout" => Self::one(Field::Deadline),
            "x-envoy-expected-rq-timeout-ms" => Self::one(Field::Deadline).and(Field::EnvoyTimeout),
            "firebreak-attempt" => Self::one(Field::Attempt),
            _ => Self(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{deadline, headers, lineage},
        *,
    };

    /// The names stand here as text, since names of fields cannot be matched; this says that they are the same.
    #[test]
    fn each_name_is_the_one_that_is_looked_up() {
        use http::{HeaderName, header};
        let all = [
            (header::UPGRADE, Field::Upgrade),
            (header::CONTENT_TYPE, Field::ContentType),
            (headers::X_REQUEST_ID, Field::RequestId),
            (headers::TRACEPARENT, Field::Traceparent),
            (deadline::FIREBREAK_DEADLINE, Field::Deadline),
            (deadline::GRPC_TIMEOUT, Field::Deadline),
            (deadline::ENVOY_TIMEOUT, Field::Deadline),
            (deadline::ENVOY_TIMEOUT, Field::EnvoyTimeout),
            (lineage::FIREBREAK_ATTEMPT, Field::Attempt),
        ];
        let hop_by_hop = headers::HOP_BY_HOP.map(|name| (name, Field::HopByHop));
        for (name, field) in all.into_iter().chain(hop_by_hop) {
            let with = HeaderMap::from_iter([(name.clone(), http::HeaderValue::from_static("1"))]);
            assert!(Present::of(&with).has(field), "{name}");
            assert!(!Present::of(&HeaderMap::new()).has(field), "{name}");
        }
        let other = [(HeaderName::from_static("accept"), http::HeaderValue::from_static("*/*"))];
        assert_eq!(Present::of(&HeaderMap::from_iter(other)), Present::default());
    }
}
