use super::*;
use crate::spec::{Bulkhead, Duration, Retries, Timeouts};

fn sample() -> Config {
    let service = Service {
        addresses: vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        ports: vec![Port {
            name: Some("http".into()),
            port: 80,
            protocol: Protocol::Http,
            listen: vec![],
            endpoints: None,
            policies: vec!["shop/service2".into()],
            observe: vec![],
            faults: vec![],
        }],
    };
    let policy = Policy {
        timeouts: Some(Timeouts { attempt: Some(Duration::from_millis(300)), ..Timeouts::default() }),
        retries: Some(Retries { max_retries: Some(3), ..Retries::default() }),
        bulkhead: Some(Bulkhead { max_connections: Some(100), ..Bulkhead::default() }),
        ..Policy::default()
    };
    Config {
        namespace: "shop".into(),
        transparent: false,
        entries: vec![
            Entry { name: "shop/service2".into(), generation: 3, body: Body::Policy(policy) },
            Entry { name: "shop/service2".into(), generation: 0, body: Body::Service(service) },
        ],
    }
}

#[test]
fn reads_what_it_writes() {
    let (document, _) = sample().encode().unwrap();
    let decoded = decode(document.as_bytes()).unwrap();
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.ignored, [] as [String; 0]);
    let mut entries = sample().entries;
    entries.reverse();
    assert_eq!(decoded.config.entries, entries, "sorted by kind and name");
}

#[test]
fn the_same_world_is_the_same_bytes() {
    let mut shuffled = sample();
    shuffled.entries.reverse();
    assert_eq!(sample().encode().unwrap(), shuffled.encode().unwrap());
}

#[test]
fn a_broken_entry_costs_only_itself() {
    let (document, _) = sample().encode().unwrap();
    let broken = document.replace("\"300ms\"", "\"300 ms\"");
    let decoded = decode(broken.as_bytes()).unwrap();
    assert_eq!(decoded.config.entries.len(), 1);
    let problem = decoded.problems[0].to_string();
    assert!(
        problem.starts_with("TrafficPolicy shop/service2: timeouts.attempt: `300 ms` is not a duration"),
        "{problem}"
    );
}

#[test]
fn what_is_new_is_ignored_and_reported() {
    let document = r#"{"format":1,"namespace":"shop","mood":"good","entries":[
        {"kind":"Weather","name":"shop/rain","body":{}},
        {"kind":"Service","name":"shop/a","body":{"ports":[{"port":80,"colour":"red"}]}}]}"#;
    let decoded = decode(document.as_bytes()).unwrap();
    assert_eq!(decoded.config.entries.len(), 1);
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.ignored, ["mood", "Weather shop/rain", "Service shop/a: ports.0.colour"]);
}

#[test]
fn another_format_is_refused_as_a_whole() {
    assert!(matches!(decode(br#"{"format":2}"#), Err(Unreadable::Format { found: 2 })));
    assert!(matches!(decode(b"{\"format\":1}x"), Err(Unreadable::Malformed(_))));
    assert!(matches!(decode(&vec![b' '; MAX_BYTES + 1]), Err(Unreadable::TooLarge(_))));
}
