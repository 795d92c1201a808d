use std::time::Duration;

use super::*;

const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CHILD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    list.iter().copied().map(header).collect()
}

fn request(lineage: &Arc<Lineage>, trace: &'static str, attempt: &'static str, deadline: Option<Instant>) -> Entered {
    lineage
        .enter(
            &headers(&[("firebreak-attempt", attempt)]),
            Instant::now(),
            deadline,
            Some(&HeaderValue::from_static(trace)),
        )
        .unwrap()
}

fn is_told(entered: &Entered) -> bool {
    let mut answer = HeaderMap::new();
    entered.tell(&mut answer);
    is_final(&answer)
}

#[test]
fn a_child_span_inherits_and_another_trace_does_not() {
    let (lineage, end) = (Arc::new(Lineage::default()), Instant::now() + Duration::from_secs(1));
    let entered = request(&lineage, ONE, "2/3", Some(end));
    let inherited = Inherited { deadline: Some(end), attempt: 2 };
    assert_eq!(lineage.of(&headers(&[("traceparent", CHILD)])), inherited);
    assert_eq!(lineage.of(&headers(&[("traceparent", OTHER)])), Inherited::default());
    assert_eq!(lineage.of(&headers(&[])), Inherited::default());
    drop(entered);
    assert_eq!(lineage.of(&headers(&[("traceparent", CHILD)])), Inherited::default(), "over");
    assert!(lineage.shards.iter().all(|shard| shard.lock().is_empty()));
}

#[test]
fn among_requests_of_one_trace_the_mildest_holds() {
    let (lineage, now) = (Arc::new(Lineage::default()), Instant::now());
    let _short = request(&lineage, ONE, "2/3", Some(now));
    let _long = request(&lineage, CHILD, "1/3", Some(now + Duration::from_secs(1)));
    let inherited = lineage.of(&headers(&[("traceparent", ONE)]));
    assert_eq!(inherited, Inherited { deadline: Some(now + Duration::from_secs(1)), attempt: 1 });
    let _endless = lineage.enter(&headers(&[]), now, None, Some(&HeaderValue::from_static(ONE))).unwrap();
    assert_eq!(lineage.of(&headers(&[("traceparent", ONE)])), Inherited::default());
}

#[test]
fn retries_that_failed_are_told_to_the_request_that_they_were_for() {
    let lineage = Arc::new(Lineage::default());
    let (one, other) = (request(&lineage, ONE, "1/3", None), request(&lineage, OTHER, "1/3", None));
    lineage.of(&headers(&[("traceparent", CHILD)]));
    lineage.of(&headers(&[("traceparent", OTHER)]));
    lineage.failed(&headers(&[("traceparent", CHILD)]));
    assert!(is_told(&one) && !is_told(&other));
}

#[test]
fn where_traces_are_not_forwarded_any_failure_since_counts() {
    let lineage = Arc::new(Lineage::default());
    lineage.failed(&headers(&[]));
    let after = request(&lineage, ONE, "1/3", None);
    assert!(!is_told(&after), "it failed before");
    lineage.failed(&headers(&[]));
    assert!(is_told(&after));
    let never_retried = lineage.enter(&headers(&[]), Instant::now(), Some(Instant::now()), None).unwrap();
    lineage.failed(&headers(&[]));
    assert!(!is_told(&never_retried), "nobody asked");
}

#[test]
fn what_concerns_no_other_call_is_not_entered() {
    let lineage = Arc::new(Lineage::default());
    assert!(lineage.enter(&headers(&[("x-request-id", "1")]), Instant::now(), None, None).is_none());
    let strange = headers(&[
        ("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        ("firebreak-attempt", "x"),
    ]);
    let entered = lineage.enter(&strange, Instant::now(), None, strange.get("traceparent")).unwrap();
    assert_eq!((entered.origin.trace, entered.origin.attempt), (None, 0));
    assert_eq!(attempts(3), ["1/3", "2/3", "3/3"].map(HeaderValue::from_static));
}

#[test]
fn the_callee_that_failed_a_call_is_known_to_the_request_that_it_was_for() {
    let lineage = Arc::new(Lineage::default());
    let enter = |headers: &HeaderMap| lineage.enter(headers, Instant::now(), None, headers.get("traceparent")).unwrap();
    let other = enter(&headers(&[("firebreak-attempt", "1/2")]));
    let own = enter(&headers(&[("traceparent", CHILD)]));
    assert_eq!(own.dependency(), None);
    for callee in ["shop/db:5432", "shop/cache:80"] {
        lineage.depends(&HeaderValue::from_static(CHILD), || callee.into());
    }
    assert_eq!(own.dependency(), Some("shop/db:5432"), "the first that failed");
    assert_eq!(other.dependency(), None);
}
