use super::*;
use crate::{
    config::endpoints::FromConfig, net::connections::Connections, policy::bulkhead::Need, telemetry::metrics::KEPT,
    verdict::Fate,
};

const GOOD: &str = r#"{"format":1,"namespace":"shop","entries":[
    {"kind":"Service","name":"shop/a","body":{"addresses":["10.96.0.1"],"ports":[{"port":80,"policies":["shop/p"]}]}},
    {"kind":"TrafficPolicy","name":"shop/p","generation":1,"body":{"timeouts":{"attempt":"300ms"}}}]}"#;

fn publisher() -> Publisher {
    Publisher::new(&Registry::new(1, Connections::default()), Labels::new(), Box::new(FromConfig))
}

fn attempt_clock(publisher: &Publisher) -> Option<std::time::Duration> {
    publisher.current().load().callee(&"10.96.0.1:80".parse().unwrap()).clocks().attempt
}

#[test]
fn a_broken_document_keeps_the_last_good_one() {
    let publisher = publisher();
    let good = publisher.publish(GOOD.as_bytes());
    assert_eq!((good.problems.len(), good.refused.is_some()), (0, false));
    let bad = publisher.publish(b"{");
    assert!(bad.refused.unwrap().contains("not a Firebreak document"));
    assert_eq!(bad.revision, good.revision);
    assert_eq!(attempt_clock(&publisher).unwrap().as_millis(), 300);
    let again = publisher.publish(GOOD.as_bytes());
    assert_eq!(again.refused, None, "the good one again is good again");
}

#[test]
fn a_broken_entry_keeps_its_last_good_form() {
    let publisher = publisher();
    publisher.publish(GOOD.as_bytes());
    let report = publisher.publish(GOOD.replace("300ms", "300").as_bytes());
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].contains("TrafficPolicy shop/p: timeouts.attempt"), "{}", report.problems[0]);
    assert_eq!(attempt_clock(&publisher).unwrap().as_millis(), 300);
}

#[test]
fn changed_labels_change_who_is_meant() {
    let publisher = publisher();
    let selective = GOOD.replace(r#"{"timeouts""#, r#"{"from":{"matchLabels":{"app":"web"}},"timeouts""#);
    publisher.publish(selective.as_bytes());
    assert_eq!(attempt_clock(&publisher), None);
    publisher.relabel(Labels::from([("app".to_owned(), "web".to_owned())]));
    assert_eq!(attempt_clock(&publisher).unwrap().as_millis(), 300);
}

/// A document of `count` services, a policy and a fault for each.
fn crowd(count: usize) -> String {
    let entries = (0..count).map(|number| {
        format!(
            r#"{{"kind":"Service","name":"shop/s{number}","body":{{"addresses":["10.1.{}.{}"],"ports":[
                {{"port":80,"policies":["shop/p"],"faults":["shop/f{number}"]}}]}}}},
               {{"kind":"FaultSpec","name":"shop/f{number}","body":{{"faults":[{{"abort":{{"percent":1,"httpStatus":503}}}}],
                "expiresAt":"2100-01-01T00:00:00Z","duration":"1h"}}}}"#,
            number / 250,
            number % 250
        )
    });
    let policy = r#"{"kind":"TrafficPolicy","name":"shop/p","generation":1,"body":{"circuitBreaker":{}}}"#;
    let entries: Vec<_> = entries.chain([policy.to_owned()]).collect();
    format!(r#"{{"format":1,"namespace":"shop","entries":[{}]}}"#, entries.join(","))
}

#[tokio::test(start_paused = true)]
async fn what_has_left_the_config_is_counted_on_for_a_while_and_then_forgotten() {
    let registry = Registry::new(1, Connections::default());
    let publisher = Publisher::new(&registry, Labels::new(), Box::new(FromConfig));
    let nameless = registry.callees().len();
    let known = || (registry.callees().len() - nameless, registry.faults().len());
    let (full, empty) = (crowd(1000), crowd(0));
    assert_eq!(publisher.publish(full.as_bytes()).problems, [] as [String; 0]);
    assert_eq!(known(), (1000, 1000));
    // One has a request under way for longer than its callee is named.
    let callee = Arc::clone(publisher.current().load().callee(&"10.1.0.0:80".parse().unwrap()));
    callee.metrics.shard(0).request(Fate::Succeeded, None, Duration::ZERO);
    let permit = callee.gate.try_acquire(Need::Exchange);
    drop(callee);
    publisher.publish(empty.as_bytes());
    let start = Instant::now();
    publisher.tidy(start);
    publisher.tidy(start + KEPT / 2);
    assert_eq!(known(), (1000, 1000), "a scrape may still want them");
    publisher.tidy(start + KEPT);
    assert_eq!(known(), (1, 0));
    drop(permit);
    publisher.tidy(start + KEPT);
    publisher.tidy(start + KEPT + KEPT / 2);
    // What comes back meanwhile goes on counting.
    publisher.publish(full.as_bytes());
    let counted = || {
        let known = registry.callees().into_iter().find(|callee| &*callee.service == "shop/s0");
        known.map(|callee| callee.durations().count())
    };
    assert_eq!(counted(), Some(1));
    publisher.publish(empty.as_bytes());
    publisher.tidy(start + 3 * KEPT);
    publisher.tidy(start + 4 * KEPT);
    assert_eq!(known(), (0, 0));
    publisher.publish(full.as_bytes());
    assert_eq!(counted(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_for_by_itself() {
    let registry = Registry::new(1, Connections::default());
    let publisher = Publisher::new(&registry, Labels::new(), Box::new(FromConfig));
    let nameless = registry.callees().len();
    publisher.publish(crowd(1).as_bytes());
    publisher.publish(crowd(0).as_bytes());
    assert_eq!(registry.callees().len(), nameless + 1);
    let _ = tokio::time::timeout(KEPT + 2 * TIDY, publisher.keep_tidy()).await;
    assert_eq!(registry.callees().len(), nameless);
}
