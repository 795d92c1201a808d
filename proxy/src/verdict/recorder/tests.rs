use super::*;

fn record(id: &str, reason: Option<Reason>) -> Record {
    Record {
        time: Timestamp::now(),
        direction: "outbound",
        service: "shop/service2".into(),
        port: "80".into(),
        method: "GET".into(),
        path: "/".into(),
        request_id: Some(id.into()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        status: Some(503),
        fate: "failed",
        reason: reason.map(Reason::name),
        fault_domain: reason.map(|reason| reason.domain().name()),
        slowed: reason.is_none(),
        attempts: 1,
        duration_ms: 1,
        policy: None,
        policy_generation: None,
        fault: None,
        dependency: None,
        callee_idle_timeout_ms: None,
        tries: Vec::new(),
        trace: None,
        took: std::time::Duration::ZERO,
    }
}

fn recorder(limit: usize) -> (Recorder, Arc<Counts>) {
    let counts = Arc::<Counts>::default();
    (Recorder::new(limit, Arc::clone(&counts), "web"), counts)
}

fn put(recorder: &Recorder, id: &str, reason: Option<Reason>) {
    let record = record(id, reason);
    recorder.put(&record, &serde_json::to_string(&record).unwrap());
}

/// Ids of what is found, in the order in which it is told.
fn ids(recorder: &Recorder, filter: &Filter) -> Vec<String> {
    let found = recorder.find(filter).unwrap();
    let id = |text: &RawValue| serde_json::from_str::<Key>(text.get()).unwrap().request_id.unwrap();
    found.records.iter().map(|text| id(text)).collect()
}

fn with_id(id: &str) -> Filter {
    Filter { id: Some(id.to_owned()), ..Filter::default() }
}

#[test]
fn the_oldest_go_and_it_says_since_when_it_is_complete() {
    let (recorder, counts) = recorder(4096);
    let began = recorder.find(&Filter::default()).unwrap().since;
    (0..100).for_each(|number| put(&recorder, &format!("r-{number}"), Some(Reason::CalleeError)));
    let ids = ids(&recorder, &Filter::default());
    let expected: Vec<_> = (0..100).rev().take(ids.len()).map(|number| format!("r-{number}")).collect();
    assert_eq!(ids, expected, "the newest first, and none is missing between");
    assert!((5..50).contains(&ids.len()), "{}", ids.len());
    let count = u64::try_from(ids.len()).unwrap();
    assert_eq!((counts.records.load(Relaxed), counts.evicted.load(Relaxed)), (count, 100 - count));
    let found = recorder.find(&Filter::default()).unwrap();
    assert!(found.since > began && found.slowed_since <= began);
}

#[test]
fn the_bound_holds_whatever_comes() {
    let (recorder, counts) = recorder(LIMIT);
    let bound = |when: &str| {
        let held: usize = recorder.find(&Filter::default()).unwrap().records.iter().map(|text| text.get().len()).sum();
        let bytes = counts.bytes.load(Relaxed);
        assert!(held <= LIMIT && bytes <= u64::try_from(LIMIT).unwrap(), "{when}: {held} bytes held, {bytes} counted");
        assert!(u64::try_from(held).unwrap() <= bytes, "{when}: {held} bytes held, only {bytes} counted");
    };
    for size in [1_000, 100_000, LIMIT / 2, 2 * LIMIT] {
        for reason in [Some(Reason::CalleeError), None] {
            for _ in 0..20 {
                put(&recorder, &"x".repeat(size), reason);
                assert!(counts.bytes.load(Relaxed) <= u64::try_from(LIMIT).unwrap());
            }
            bound(&format!("{size} {reason:?}"));
        }
    }
    (0..5000).for_each(|number| put(&recorder, &format!("r-{number}"), Some(Reason::CalleeError)));
    bound("small ones");
    assert!(counts.records.load(Relaxed) > 1000, "it is used");
}

#[test]
fn retries_that_went_well_push_out_no_failure() {
    let (recorder, _) = recorder(8192);
    put(&recorder, "the failure", Some(Reason::CalleeError));
    (0..1000).for_each(|number| put(&recorder, &format!("slowed-{number}"), None));
    let ids = ids(&recorder, &Filter::default());
    assert_eq!(ids.last().map(String::as_str), Some("the failure"));
    assert_eq!(ids[0], "slowed-999");
}

#[test]
fn it_is_asked_by_id_reason_and_service() {
    let (recorder, _) = recorder(LIMIT);
    put(&recorder, "checkout-1", Some(Reason::BulkheadFull));
    put(&recorder, "checkout-2", Some(Reason::CalleeError));
    put(&recorder, "r-1", None);
    for (id, expected) in [
        ("checkout-1", &["checkout-1"][..]),
        ("checkout", &["checkout-2", "checkout-1"]),
        ("check", &[]),
        ("r-1", &["r-1"]),
        ("r-", &[]),
        ("4bf92f3577b34da6a3ce929d0e0e4736", &["r-1", "checkout-2", "checkout-1"]),
        ("4bf92f35", &["r-1", "checkout-2", "checkout-1"]),
        ("92f3577b34da6", &[]),
    ] {
        assert_eq!(ids(&recorder, &with_id(id)), expected, "{id}");
    }
    let reason = Filter { reason: Some("bulkhead_full".to_owned()), ..Filter::default() };
    assert_eq!(ids(&recorder, &reason), ["checkout-1"]);
    for (service, count) in
        [("shop/service2", 3), ("shop/service2:80", 3), ("shop/service2:8", 0), ("shop/service", 0), ("shop/x", 0)]
    {
        let filter = Filter { service: Some(service.to_owned()), ..Filter::default() };
        assert_eq!(ids(&recorder, &filter).len(), count, "{service}");
    }
    assert_eq!(ids(&recorder, &Filter { limit: Some(1), ..Filter::default() }), ["r-1"]);
}

#[test]
fn an_id_that_was_cut_is_found_by_the_whole() {
    let (recorder, _) = recorder(LIMIT);
    put(&recorder, &"a".repeat(ID), Some(Reason::CalleeError));
    assert_eq!(ids(&recorder, &with_id(&"a".repeat(ID + 50))).len(), 1);
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_can() {
    let (recorder, _) = recorder(LIMIT);
    let refused = |filter: Filter| recorder.find(&filter).unwrap_err().to_string();
    let reason = refused(Filter { reason: Some("slow".to_owned()), ..Filter::default() });
    assert!(reason.starts_with("reason: there is no `slow`; the reasons are connect_timeout, "), "{reason}");
    let service = refused(Filter { service: Some("service2".to_owned()), ..Filter::default() });
    assert!(service.starts_with("service: `service2` is no callee; write namespace/name"), "{service}");
    assert_eq!(refused(with_id("")), "id: must not be empty");
    assert_eq!(refused(Filter { limit: Some(0), ..Filter::default() }), "limit: must be at least 1");
}
