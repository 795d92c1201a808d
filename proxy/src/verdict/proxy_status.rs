//! The `Proxy-Status` header (RFC 9209): the verdict, for whoever reads the response.
//!
//! Registered tokens say what kind of failure it was; our own parameters, which the RFC lets readers ignore, say which
//! reason exactly, whose policy decided and how many tries were made. It is written only where something went wrong, so
//! its cost is not on the way of a request that succeeds.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Domain, Reason};

/// `proxy-status`.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What one member of the list says.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Name of this deployment: the pod.
    pub name: &'a str,
    /// Why.
    pub reason: Reason,
    /// Whose problem it is.
    pub domain: Domain,
    /// Status that the callee gave, when it did.
    pub received_status: Option<StatusCode>,
    /// Tries made.
    pub attempts: u32,
    /// `namespace/name` of the TrafficPolicy in force.
    pub policy: Option<&'a str>,
    /// `namespace/name:port` of what the callee's application called in vain.
    pub dependency: Option<&'a str>,
    /// `namespace/name` of the FaultSpec that was injected.
    pub fault: Option<&'a str>,
}

/// Why the callee's own proxy made the answer, if it did: what the last member says. A proxy that passed an answer on says which
/// status it received; such an answer is its application's, and so is whatever reason of a callee further on that copied.
pub fn said_by_callee(headers: &HeaderMap) -> Option<Reason> {
    let last = headers.get_all(PROXY_STATUS).iter().next_back()?.to_str().ok()?;
    if last.contains("received-status=") {
        return None;
    }
    let (_, reason) = last.rsplit_once("; firebreak-reason=")?;
    Reason::named(reason.split([';', ',']).next()?)
}

/// The FaultSpec that the callee's own proxy injected, as the last member says.
pub fn fault_said_by_callee(headers: &HeaderMap) -> Option<&str> {
    let last = headers.get_all(PROXY_STATUS).iter().next_back()?.to_str().ok()?;
    let (_, rest) = last.rsplit_once("; firebreak-fault=\"")?;
    rest.split_once('"').map(|(fault, _)| fault).filter(|fault| fault.contains('/'))
}

/// What the callee's application called in vain, if the callee's own proxy says so in the last member.
pub fn dependency_said_by_callee(headers: &HeaderMap) -> Option<&str> {
    let last = headers.get_all(PROXY_STATUS).iter().next_back()?.to_str().ok()?;
    let (_, rest) = last.rsplit_once("; firebreak-dependency=\"")?;
    rest.split_once('"').map(|(dependency, _)| dependency).filter(|dependency| dependency.contains('/'))
}

impl<'a> Member<'a> {
    /// One that says no more than that.
    pub fn new(name: &'a str, reason: Reason, domain: Domain) -> Self {
        Self { name, reason, domain, received_status: None, attempts: 0, policy: None, dependency: None, fault: None }
    }
}

impl Member<'_> {
    /// Appends the member: the last of the list is the proxy nearest to the caller.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        // Names of Kubernetes objects and our own words are all visible ASCII, so this cannot fail.
        if let Ok(value) = HeaderValue::try_from(self.to_text()) {
            headers.append(PROXY_STATUS, value);
        }
    }

    /// The member as text.
    pub fn to_text(self) -> String {
        let mut text = String::with_capacity(192);
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(self, text: &mut String) -> std::fmt::Result {
        write!(text, "\"{}\"", self.name.replace(['"', '\\'], ""))?;
        if !self.reason.error_token().is_empty() {
            write!(text, "; error={}", self.reason.error_token())?;
        }
        if let Some(status) = self.received_status {
            write!(text, "; received-status={}", status.as_u16())?;
        }
        write!(
            text,
            "; firebreak-reason={}; firebreak-domain={}; firebreak-attempts={}",
            self.reason.name(),
            self.domain.name(),
            self.attempts
        )?;
        if let Some(policy) = self.policy {
            write!(text, "; firebreak-policy=\"{policy}\"")?;
        }
        if let Some(dependency) = self.dependency {
            write!(text, "; firebreak-dependency=\"{dependency}\"")?;
        }
        if let Some(fault) = self.fault {
            write!(text, "; firebreak-fault=\"{fault}\"")?;
        }
        write!(text, "; details=\"{}\"", self.reason.details())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::REASONS;

    #[test]
    fn reads_like_the_rfc_and_says_what_we_know() {
        let mut headers = HeaderMap::new();
        let member = Member {
            name: "web-7d4",
            reason: Reason::BulkheadFull,
            domain: Domain::CallerPolicy,
            received_status: None,
            attempts: 0,
            policy: Some("shop/service2"),
            dependency: None,
            fault: None,
        };
        member.append_to(&mut headers);
        assert_eq!(
            headers[PROXY_STATUS],
            "\"web-7d4\"; error=connection_limit_reached; firebreak-reason=bulkhead_full; firebreak-domain=caller_policy; \
             firebreak-attempts=0; firebreak-policy=\"shop/service2\"; details=\"the callee's bulkhead is full and as many \
             requests wait as may\""
        );
    }

    #[test]
    fn what_the_callees_proxy_said_is_read_back() {
        let mut headers = HeaderMap::new();
        assert_eq!(said_by_callee(&headers), None);
        headers.append(PROXY_STATUS, HeaderValue::from_static("\"cdn\"; error=dns_error"));
        assert_eq!(said_by_callee(&headers), None, "another proxy's words");
        for reason in REASONS {
            let domain = reason.domain();
            let member = Member::new("x", reason, domain);
            member.append_to(&mut headers);
            assert_eq!(said_by_callee(&headers), Some(reason));
            Member { received_status: Some(StatusCode::BAD_GATEWAY), ..member }.append_to(&mut headers);
            assert_eq!(said_by_callee(&headers), None, "an answer that was passed on");
        }
    }

    #[test]
    fn what_the_next_hop_said_stays_before_it() {
        let mut headers = HeaderMap::new();
        headers.append(PROXY_STATUS, HeaderValue::from_static("\"origin-side\"; received-status=500"));
        let member = Member {
            name: "web",
            reason: Reason::CalleeError,
            domain: Domain::CalleeApp,
            received_status: Some(StatusCode::INTERNAL_SERVER_ERROR),
            attempts: 4,
            policy: None,
            dependency: None,
            fault: None,
        };
        member.append_to(&mut headers);
        let members: Vec<_> = headers.get_all(PROXY_STATUS).iter().collect();
        assert_eq!(members.len(), 2);
        assert!(
            members[1].to_str().unwrap().starts_with("\"web\"; received-status=500; firebreak-reason=callee_error")
        );
    }
}
