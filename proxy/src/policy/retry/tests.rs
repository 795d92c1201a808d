use proptest::prelude::*;

use super::*;

fn retries(json: &str) -> Retries {
    Retries::from(&serde_json::from_str::<spec::Retries>(json).unwrap())
}

fn status(code: u16) -> Brought {
    Brought::Response { status: StatusCode::from_u16(code).unwrap(), grpc: None }
}

fn nothing(reason: Reason) -> Brought {
    Brought::Nothing { reason, grpc: false }
}

#[test]
fn each_condition_retries_what_it_names() {
    let table = [
        ("5xx", status(500), true),
        ("5xx", status(404), false),
        ("5xx", nothing(Reason::AttemptTimeout), true),
        ("gateway-error", status(503), true),
        ("gateway-error", status(500), false),
        ("gateway-error", nothing(Reason::AttemptTimeout), true),
        ("gateway-error", nothing(Reason::ConnectionReset), true),
        ("reset-before-response", nothing(Reason::ConnectionReset), true),
        ("reset-before-response", nothing(Reason::FaultReset), true),
        ("reset-before-response", nothing(Reason::AttemptTimeout), false),
        ("connect-failure", nothing(Reason::ConnectionRefused), true),
        ("connect-failure", nothing(Reason::ConnectionReset), false),
        ("connect-failure", nothing(Reason::FaultRefuse), true),
        ("connect-failure", nothing(Reason::FaultBlackhole), true),
        ("reset-before-response", nothing(Reason::FaultRefuse), false),
        ("refused-stream", nothing(Reason::StreamRefused), true),
        ("retriable-4xx", status(409), true),
        ("retriable-4xx", status(429), false),
    ];
    for (condition, brought, wanted) in table {
        let retries = retries(&format!(r#"{{"conditions":["{condition}"]}}"#));
        assert_eq!(retries.wants(brought, true), wanted, "{condition} after {brought:?}");
    }
    assert!(retries(r#"{"conditions":["codes"],"codes":[429]}"#).wants(status(429), true));
}

#[test]
fn grpc_statuses_do_not_look_at_methods() {
    let retries = retries(r#"{"conditions":["grpc-unavailable"]}"#);
    let answered = |grpc| Brought::Response { status: StatusCode::OK, grpc: Some(grpc) };
    assert!(retries.wants(answered(14), false));
    assert!(!retries.wants(answered(13), false));
    let unanswered = |reason| Brought::Nothing { reason, grpc: true };
    assert!(retries.wants(unanswered(Reason::ConnectionRefused), false));
    assert!(!retries.wants(unanswered(Reason::AttemptTimeout), false), "that is DEADLINE_EXCEEDED");
    assert!(!retries.wants(unanswered(Reason::BulkheadFull), false), "what the proxy refused is final");
}

#[test]
fn what_may_be_sent_twice() {
    let keyed = HeaderMap::from_iter([(IDEMPOTENCY_KEY, http::HeaderValue::from_static("a"))]);
    let plain = HeaderMap::new();
    let (safe, idempotent, all) =
        (retries("{}"), retries(r#"{"methods":"Idempotent"}"#), retries(r#"{"methods":"All"}"#));
    assert!(safe.repeatable(&Method::GET, &plain) && !safe.repeatable(&Method::PUT, &plain));
    assert!(!safe.repeatable(&Method::POST, &keyed));
    assert!(idempotent.repeatable(&Method::DELETE, &plain) && !idempotent.repeatable(&Method::POST, &plain));
    assert!(idempotent.repeatable(&Method::POST, &keyed));
    assert!(all.repeatable(&Method::POST, &plain));
}

#[test]
fn a_post_is_retried_only_when_it_provably_was_not_sent() {
    let retries = retries(r#"{"conditions":["5xx","connect-failure","reset-before-response"]}"#);
    assert!(retries.wants(nothing(Reason::ConnectionRefused), false));
    assert!(!retries.wants(nothing(Reason::ConnectionReset), false));
    assert!(!retries.wants(status(503), false));
}

#[test]
fn what_the_proxy_itself_refused_is_final() {
    let retries = retries(r#"{"conditions":["5xx"],"methods":"All"}"#);
    for reason in [Reason::BulkheadFull, Reason::RequestTimeout, Reason::CallerCancelled, Reason::LoopDetected] {
        assert!(!retries.wants(nothing(reason), true), "{reason:?}");
    }
}

proptest! {
    #[test]
    fn pauses_double_and_stay_below_the_longest(retry in 1u32..40, random in 0.0f64..1.0) {
        let retries = retries(r#"{"backoff":{"base":"25ms","max":"250ms"}}"#);
        let ceiling = Duration::from_millis(25).saturating_mul(2u32.saturating_pow(retry - 1)).min(Duration::from_millis(250));
        prop_assert!(retries.pause(retry, random) <= ceiling);
        prop_assert_eq!(retries.pause(retry, 1.0), ceiling);
    }
}

#[test]
fn what_a_callee_says_about_another_try() {
    let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
    let told = |name: &'static str, value: &'static str| {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        Told::by(&headers, now)
    };
    let after = |seconds| Told::After(Duration::from_secs(seconds));
    assert_eq!(Told::by(&HeaderMap::new(), now), Told::Nothing);
    assert_eq!(told("retry-after", "3"), after(3));
    assert_eq!(told("retry-after", "Thu, 01 Jan 2026 10:00:30 GMT"), after(30));
    assert_eq!(told("retry-after", "Thu, 01 Jan 2026 09:00:00 GMT"), after(0), "a date that is past");
    assert_eq!(told("retry-after", "soon"), Told::Nothing);
    assert_eq!(told("grpc-retry-pushback-ms", "2000"), after(2));
    assert_eq!(told("grpc-retry-pushback-ms", "-1"), Told::Never);
    assert_eq!(told("grpc-retry-pushback-ms", "later"), Told::Never);
    let own = Duration::from_millis(20);
    assert_eq!(
        [Told::Nothing.pause(own), after(1).pause(own), after(0).pause(own), Told::Never.pause(own)],
        [Some(own), Some(Duration::from_secs(1)), Some(own), None]
    );
}

#[test]
fn another_try_is_made_unless_something_speaks_against_it() {
    let retries = retries(r#"{"maxRetries":2,"backoff":{"base":"100ms","max":"100ms"}}"#);
    let ms = Duration::from_millis;
    let first = Prospect { made: 1, replayable: true, layered: false, told: Told::Nothing, left: None };
    let table = [
        (first, Again::After(ms(50))),
        (Prospect { made: 2, ..first }, Again::After(ms(50))),
        (Prospect { made: 3, ..first }, Again::Spent),
        (Prospect { replayable: false, ..first }, Again::Spent),
        (Prospect { layered: true, ..first }, Again::LeftToLayers),
        (Prospect { left: Some(ms(51)), ..first }, Again::After(ms(50))),
        (Prospect { left: Some(ms(50)), ..first }, Again::Spent),
        (Prospect { told: Told::After(ms(300)), ..first }, Again::After(ms(300))),
        (Prospect { told: Told::After(ms(300)), left: Some(ms(300)), ..first }, Again::PushedBack),
        (Prospect { told: Told::After(defaults::RETRY_AFTER_MAX + ms(1)), ..first }, Again::PushedBack),
        (Prospect { told: Told::Never, ..first }, Again::PushedBack),
    ];
    for (after, expected) in table {
        assert_eq!(retries.again(after, 0.5), expected, "{after:?}");
    }
}
