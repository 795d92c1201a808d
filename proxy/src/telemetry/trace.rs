//! Which requests are traced, and how that is said to whoever they are sent to.
//!
//! W3C Trace Context and B3, of one header or several (<https://www.w3.org/TR/trace-context/>,
//! <https://github.com/openzipkin/b3-propagation>). What came in goes out in the same form; where the request is sampled, our own
//! span is the parent. The decision of whoever sent a trace holds; only requests without one are drawn. A request that is not
//! sampled is passed on as it came, and costs a look at its headers if tracing is on, and nothing if it is not.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::headers::TRACEPARENT;

const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Which of the requests without a trace begin one.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// From 0 to 1.
    pub share: f64,
}

/// A request that is sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// The span of whoever sent the request.
    pub parent: Option<u64>,
    /// Our own; its tries have the numbers that follow.
    pub span: u64,
    form: Form,
}

/// The headers that a trace came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    W3c,
    B3,
    B3Several,
    /// It begins here.
    None,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Came {
    id: u128,
    span: u64,
    /// Nothing if it is left to us.
    sampled: Option<bool>,
}

impl Sampling {
    /// The trace of a request, if it is sampled.
    pub fn begin(self, headers: &HeaderMap) -> Option<Box<Trace>> {
        let draw = || fastrand::f64() < self.share;
        let (form, came) = if let Some(came) = headers.get(TRACEPARENT).and_then(w3c) {
            (Form::W3c, Some(came))
        } else if let Some(b3) = headers.get(B3) {
            match b3_single(b3) {
                Ok(came) => (Form::B3, Some(came)),
                Err(Unsampled) => return None,
            }
        } else if headers.get(SAMPLED).is_some_and(|sampled| sampled == "0" || sampled == "false") {
            return None;
        } else if let Some(came) = b3_several(headers) {
            (Form::B3Several, Some(came))
        } else {
            (Form::None, None)
        };
        if !came.and_then(|came| came.sampled).unwrap_or_else(draw) {
            return None;
        }
        let id = came.map_or_else(|| fastrand::u128(1..), |came| came.id);
        // Room for the numbers of the tries.
        let span = fastrand::u64(1..u64::MAX / 2);
        Some(Box::new(Trace { id, parent: came.map(|came| came.span), span, form }))
    }
}

impl Trace {
    /// Whether it begins with this request.
    pub fn is_new(&self) -> bool {
        self.form == Form::None
    }

    /// The span of a try; 0 is the request's own.
    pub fn span_of(&self, attempt: u32) -> u64 {
        self.span + u64::from(attempt)
    }

    /// Says in a request's head that this span is its parent.
    pub fn tell(&self, headers: &mut HeaderMap, span: u64) {
        let mut set = |name, text: String| {
            // Hexadecimal digits are a valid value.
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        match self.form {
            Form::W3c | Form::None => set(TRACEPARENT, self.traceparent(span)),
            Form::B3 => set(B3, format!("{:032x}-{span:016x}-1", self.id)),
            Form::B3Several => {
                set(SPAN_ID, format!("{span:016x}"));
                set(SAMPLED, "1".to_owned());
                // The parent of a try is the request's own span.
                match if span == self.span { self.parent } else { Some(self.span) } {
                    Some(parent) => set(PARENT_ID, format!("{parent:016x}")),
                    None => drop(headers.remove(PARENT_ID)),
                }
            }
        }
    }

    /// `traceparent` with this span.
    pub fn traceparent(&self, span: u64) -> String {
        format!("00-{:032x}-{span:016x}-01", self.id)
    }
}

/// B3 that says nothing but that the request is not sampled, or that makes no sense.
struct Unsampled;

fn w3c(value: &HeaderValue) -> Option<Came> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = version.len() == 2 && version != "ff" && id.len() == 32 && span.len() == 16 && flags.len() == 2;
    // Later versions may have more parts, the first has not.
    let fits = known && (version != "00" || parts.next().is_none());
    let flags = u8::from_str_radix(flags, 16).ok()?;
    fits.then(|| came(id, span, Some(flags & 1 == 1))).flatten()
}

fn b3_single(value: &HeaderValue) -> Result<Came, Unsampled> {
    let mut parts = value.to_str().map_err(|_| Unsampled)?.split('-');
    let (id, span) = parts.next().zip(parts.next()).ok_or(Unsampled)?;
    let sampled = parts.next().map(|sampled| sampled == "1" || sampled == "d");
    came(id, span, sampled).ok_or(Unsampled)
}

fn b3_several(headers: &HeaderMap) -> Option<Came> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let debug = text(FLAGS).filter(|flags| *flags == "1").map(|_| true);
    let sampled = debug.or(text(SAMPLED).map(|sampled| sampled == "1" || sampled == "true"));
    came(text(TRACE_ID)?, text(SPAN_ID)?, sampled)
}

fn came(id: &str, span: &str, sampled: Option<bool>) -> Option<Came> {
    let fits = matches!(id.len(), 16 | 32) && span.len() == 16 && !id.starts_with('+') && !span.starts_with('+');
    let id = u128::from_str_radix(id, 16).ok().filter(|id| fits && *id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
    Some(Came { id, span, sampled })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER: Sampling = Sampling { share: 0.0 };
    const ALWAYS: Sampling = Sampling { share: 1.0 };

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_senders_decision_holds() {
        for sampled in [
            headers(&[("traceparent", W3C)]),
            headers(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-05e3ac9a4f6e3b90")]),
            headers(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-d")]),
            headers(&[
                ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
                ("x-b3-spanid", "00f067aa0ba902b7"),
                ("x-b3-sampled", "1"),
            ]),
        ] {
            let trace = NEVER.begin(&sampled).unwrap();
            assert_eq!((trace.id, trace.parent), (ID, Some(0x00f0_67aa_0ba9_02b7)), "{sampled:?}");
            let mut told = sampled.clone();
            trace.tell(&mut told, trace.span_of(1));
            let next = NEVER.begin(&told).unwrap();
            assert_eq!((next.id, next.parent, next.form), (ID, Some(trace.span + 1), trace.form), "in the same form");
            if let Some(parent) = told.get("x-b3-parentspanid") {
                assert_eq!(parent, &format!("{:016x}", trace.span), "the request's own span, as it is exported");
            }
            assert_eq!(
                told.keys().filter(|name| !sampled.contains_key(*name)).count(),
                usize::from(sampled.len() == 3)
            );
        }
        for not in [
            headers(&[("traceparent", &W3C.replace("-01", "-00"))]),
            headers(&[("b3", "0")]),
            headers(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0")]),
            headers(&[("x-b3-sampled", "0")]),
        ] {
            assert_eq!(ALWAYS.begin(&not), None, "{not:?}");
        }
    }

    #[test]
    fn without_one_the_share_decides() {
        assert_eq!(NEVER.begin(&HeaderMap::new()), None);
        let mut told = HeaderMap::new();
        let trace = ALWAYS.begin(&told).unwrap();
        assert!(trace.is_new() && trace.parent.is_none());
        trace.tell(&mut told, trace.span);
        assert_eq!(NEVER.begin(&told).unwrap().id, trace.id);
    }

    proptest! {
        #[test]
        fn nonsense_is_no_trace(text in "[ -~]{0,60}") {
            let known = NEVER.begin(&headers(&[("traceparent", text.trim())]));
            prop_assert!(known.is_none() || text.trim().len() >= 55);
        }
    }
}
