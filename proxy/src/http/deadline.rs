//! Deadlines that travel: how much time a caller has left, read from its request and sent on with what is left of it.
//!
//! A deadline is the caller's own wish, so it holds without a policy too. Three headers carry it: gRPC's `grpc-timeout`, Envoy's
//! `x-envoy-expected-rq-timeout-ms`, and ours, which is the one that is always sent on.

use std::{cell::RefCell, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Milliseconds that are left for the request. 0: none.
pub const FIREBREAK_DEADLINE: HeaderName = HeaderName::from_static("firebreak-deadline-ms");
/// Envoy's.
pub const ENVOY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// gRPC's.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The most digits that gRPC's header may have, and that are read of the others: more than 3 years.
const DIGITS: usize = 8;
const LONGEST: u128 = 99_999_999;

/// What the caller's headers leave, the least of what they say. What cannot be read is not a deadline.
pub fn left(headers: &HeaderMap, grpc: bool) -> Option<Duration> {
    let millis = |name| headers.get(name).and_then(|value| number(value.as_bytes())).map(Duration::from_millis);
    let ours = millis(FIREBREAK_DEADLINE);
    // For Envoy 0 means that there is no time-out.
    let envoys = millis(ENVOY_TIMEOUT).filter(|left| !left.is_zero());
    let grpcs = if grpc { headers.get(GRPC_TIMEOUT).and_then(|value| timeout(value.as_bytes())) } else { None };
    [ours, envoys, grpcs].into_iter().flatten().min()
}

/// The number that was told last, as text. Most requests have the same time left, that of their policy, when they are sent.
#[derive(Debug, Default)]
pub struct LastTold(RefCell<Option<(u64, HeaderValue)>>);

impl LastTold {
    fn text(&self, number: u64) -> Option<HeaderValue> {
        let mut last = self.0.borrow_mut();
        if last.as_ref().is_none_or(|(told, _)| *told != number) {
            *last = decimal(number).map(|text| (number, text));
        }
        last.as_ref().map(|(_, text)| text.clone())
    }
}

/// Says what is left: in our header, in gRPC's for gRPC, and in Envoy's where the caller used it (`envoys`).
pub fn tell(headers: &mut HeaderMap, grpc: bool, envoys: bool, left: Duration, last: &LastTold) {
    // Rounded up: a callee that is given 0 has no time at all.
    let millis = left.as_nanos().div_ceil(1_000_000);
    let Some(value) = last.text(u64::try_from(millis.min(LONGEST)).unwrap_or_default()) else { return };
    if envoys {
        headers.insert(ENVOY_TIMEOUT, value.clone());
    }
    if grpc {
        let text = if millis <= LONGEST {
            format!("{}m", millis.max(1))
        } else {
            format!("{}S", left.as_secs().min(99_999_999))
        };
        // Digits and a letter are a valid value.
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
    headers.insert(FIREBREAK_DEADLINE, value);
}

/// A number as a value, with one allocation where the library's conversion takes two.
fn decimal(mut number: u64) -> Option<HeaderValue> {
    // As many digits as 64 bits have at most.
    let (mut digits, mut at) = ([b'0'; 20], 20);
    loop {
        at -= 1;
        digits[at] += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return HeaderValue::from_bytes(&digits[at..]).ok();
        }
    }
}

/// gRPC over HTTP/2: up to 8 digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let count = number(digits)?;
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > DIGITS {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        list.iter().copied().map(header).collect()
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let last = LastTold::default();
        for number in [0, 1, 9, 10, 10, 3_000, 10, 99_999_999, u64::MAX] {
            assert_eq!(last.text(number).unwrap(), number.to_string());
        }
    }

    #[test]
    fn the_nearest_deadline_holds() {
        for (list, grpc, expected) in [
            (&[][..], true, None),
            (&[("firebreak-deadline-ms", "250")], false, Some(Duration::from_millis(250))),
            (&[("firebreak-deadline-ms", "0")], false, Some(Duration::ZERO)),
            (&[("x-envoy-expected-rq-timeout-ms", "0")], false, None),
            (
                &[("x-envoy-expected-rq-timeout-ms", "15"), ("firebreak-deadline-ms", "16")],
                false,
                Some(Duration::from_millis(15)),
            ),
            (&[("grpc-timeout", "2S")], false, None),
            (&[("grpc-timeout", "2S")], true, Some(Duration::from_secs(2))),
            (&[("grpc-timeout", "99999999H")], true, Some(Duration::from_hours(99_999_999))),
            (&[("grpc-timeout", "70u"), ("firebreak-deadline-ms", "1")], true, Some(Duration::from_micros(70))),
            (&[("grpc-timeout", "123456789m")], true, None),
            (&[("grpc-timeout", "-1m")], true, None),
            (&[("grpc-timeout", "m")], true, None),
            (&[("firebreak-deadline-ms", "soon")], true, None),
        ] {
            assert_eq!(left(&headers(list), grpc), expected, "{list:?}");
        }
    }

    #[test]
    fn what_is_left_is_said_in_the_words_that_the_caller_used() {
        let last = LastTold::default();
        let mut plain = headers(&[("x-envoy-expected-rq-timeout-ms", "900")]);
        tell(&mut plain, false, true, Duration::from_micros(1_200), &last);
        assert_eq!(plain, headers(&[("x-envoy-expected-rq-timeout-ms", "2"), ("firebreak-deadline-ms", "2")]));
        let mut grpc = headers(&[("grpc-timeout", "1S")]);
        tell(&mut grpc, true, false, Duration::from_millis(700), &last);
        assert_eq!(grpc, headers(&[("grpc-timeout", "700m"), ("firebreak-deadline-ms", "700")]));
        tell(&mut grpc, true, false, Duration::from_hours(48), &last);
        assert_eq!(grpc["grpc-timeout"], "172800S");
    }
}
