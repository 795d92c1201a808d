use super::*;
use crate::{config::endpoints::FromConfig, net::connections::Connections};

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
