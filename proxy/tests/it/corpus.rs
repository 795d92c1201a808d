//! The corpus of causes, which proves the attribution of failures: each cause is made to happen, over each protocol that has
//! it, and the reason and the domain must be the right ones wherever they are told. `docs/attribution.md` shows the same
//! causes beside what Envoy says of them; `tests/corpus/run` writes it.

mod callers;
mod causes;
mod envoy;
mod frames;
mod peers;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use firebreak_proxy::{
    Settings,
    net::accept::Kind,
    verdict::{Domain, REASONS, Reason},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use self::{
    callers::{Before, Caller, ID},
    peers::{Peer, Script},
};
use super::support::{Mesh, free_address};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Grpc,
}

/// One cause, and what is to be said of it.
#[derive(Clone, Copy, Debug)]
struct Cause {
    name: &'static str,
    on: &'static [Protocol],
    /// JSON of the policy.
    policy: &'static str,
    /// JSON of the FaultSpec's list, and for how long it is in force.
    faults: &'static str,
    duration: &'static str,
    proxy: Setup,
    peer: Script,
    before: Before,
    caller: Caller,
    reason: Reason,
    domain: Domain,
    told: Told,
}

/// What is special about the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Usual,
    /// It takes a single connection from callers.
    OneConnection,
    /// It is called by its own address, to which nothing was redirected.
    CalledItself,
    /// It waits 200 ms for the rest of a request's head.
    ShortHeads,
}

/// Whether the caller can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// In the head of the answer, or in trailers.
    Caller,
    /// The caller has gone, or has a head already and a protocol without a word for what follows.
    Nobody,
}

/// Reason and domain.
type Verdict = (String, String);

/// All that was said of one failure.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    proxy_status: Option<Verdict>,
    counted: BTreeMap<Verdict, u64>,
    recorded: Option<Verdict>,
}

/// How long [`Setup::ShortHeads`] waits.
const SHORT_HEAD: Duration = Duration::from_millis(200);

/// The longest that anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

impl Protocol {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
        }
    }
}

impl Cause {
    fn verdict(&self) -> Verdict {
        (self.reason.name().to_owned(), self.domain.name().to_owned())
    }

    fn expected(&self) -> Said {
        let verdict = self.verdict();
        Said {
            proxy_status: (self.told == Told::Caller).then(|| verdict.clone()),
            counted: BTreeMap::from([(verdict.clone(), 1)]),
            recorded: Some(verdict),
        }
    }

    fn policy(&self) -> Value {
        serde_json::from_str(self.policy).unwrap()
    }

    fn faults(&self) -> Value {
        serde_json::from_str(self.faults).unwrap()
    }

    /// A proxy in front of the peer, and where it is called.
    fn mesh(&self, peer: &Peer) -> (Mesh, SocketAddr) {
        let mut settings = Settings::default();
        let own = free_address();
        match self.proxy {
            Setup::Usual => {}
            Setup::OneConnection => settings.max_connections = 1,
            Setup::ShortHeads => settings.waits.head = SHORT_HEAD,
            Setup::CalledItself => settings.redirected = vec![(own, Kind::Before(own))],
        }
        let mut entries = vec![("TrafficPolicy", self.policy())];
        if !self.faults.is_empty() {
            let spec = json!({"faults": self.faults(), "expiresAt": "2100-01-01T00:00:00Z", "duration": self.duration});
            entries.push(("FaultSpec", spec));
        }
        let mesh = Mesh::set(settings, &peer.endpoints, json!({"protocol": "Http"}), &entries);
        let address = if self.proxy == Setup::CalledItself { own } else { mesh.address };
        (mesh, address)
    }

    /// Makes it happen; what is said of it.
    async fn happen(&self, protocol: Protocol) -> Said {
        let peer = Peer::start(self.peer, protocol).await;
        let (mesh, address) = self.mesh(&peer);
        let held = self.before.happen(address, protocol, &peer).await;
        mesh.fates(held.ended).await;
        let before = failures(&mesh).await;
        let said = self.caller.act(address, protocol, &peer).await;
        let counted = new_failures(&mesh, &before).await;
        let all = before.values().chain(counted.values()).sum::<u64>();
        Said { proxy_status: said.as_deref().and_then(parse), counted, recorded: newest(&mesh, all).await }
    }
}

/// What a member of `Proxy-Status` says.
fn parse(member: &str) -> Option<Verdict> {
    let word = |name: &str| Some(member.split(name).nth(1)?.split(';').next()?.to_owned());
    Some((word("firebreak-reason=")?, word("firebreak-domain=")?))
}

/// `firebreak_failures_total`, by reason and domain.
async fn failures(mesh: &Mesh) -> BTreeMap<Verdict, u64> {
    let mut counts = BTreeMap::new();
    for line in mesh.metrics().await.lines().filter(|line| line.starts_with("firebreak_failures_total{")) {
        let label =
            |name: &str| line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
        let count = line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        *counts.entry((label("reason"), label("fault_domain"))).or_default() += count;
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Those that have come since; none if none comes.
async fn new_failures(mesh: &Mesh, before: &BTreeMap<Verdict, u64>) -> BTreeMap<Verdict, u64> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut now = failures(mesh).await;
        for (verdict, count) in &mut now {
            *count -= before.get(verdict).copied().unwrap_or_default();
        }
        now.retain(|_, count| *count > 0);
        if !now.is_empty() || Instant::now() > deadline {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

/// What the flight recorder's newest record says, once it has them all; it is the line of the log.
async fn newest(mesh: &Mesh, all: u64) -> Option<Verdict> {
    let records = mesh.records("", usize::try_from(all).unwrap()).await;
    let record = records.first()?;
    // Bytes that are no request have no id.
    assert!(record["request_id"] == ID || record["request_id"].is_null(), "{record}");
    let word = |name: &str| Some(record[name].as_str()?.to_owned());
    Some((word("reason")?, word("fault_domain")?))
}

async fn all_of(protocol: Protocol) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    println!("{:<52} {:<24} domain", protocol.name(), "reason");
    for cause in causes::all().filter(|cause| cause.on.contains(&protocol)) {
        count += 1;
        let (reason, domain) = cause.verdict();
        println!("{:<52} {reason:<24} {domain}", cause.name);
        // A task, so that one that panics does not hide the others.
        match tokio::spawn(timeout(LIMIT, cause.happen(protocol))).await {
            Ok(Ok(said)) if said == cause.expected() => {}
            Ok(Ok(said)) => wrong.push(format!("{}: {said:?}\n    instead of {:?}", cause.name, cause.expected())),
            Ok(Err(_)) => wrong.push(format!("{}: it did not end", cause.name)),
            Err(panic) => wrong.push(format!("{}: {panic}", cause.name)),
        }
    }
    assert!(wrong.is_empty(), "{} of {count} over {}:\n{}", wrong.len(), protocol.name(), wrong.join("\n"));
    assert!(count >= 25, "{count} causes over {}", protocol.name());
}

#[tokio::test]
async fn http1_each_cause_has_its_reason_and_domain() {
    all_of(Protocol::Http1).await;
}

#[tokio::test]
async fn http2_each_cause_has_its_reason_and_domain() {
    all_of(Protocol::Http2).await;
}

#[tokio::test]
async fn grpc_each_cause_has_its_reason_and_domain() {
    all_of(Protocol::Grpc).await;
}

#[test]
fn every_reason_that_can_be_caused_is_in_the_corpus() {
    for reason in REASONS {
        let left_out = causes::LEFT_OUT.iter().any(|(left_out, why)| *left_out == reason && !why.is_empty());
        let caused = causes::all().any(|cause| cause.reason == reason);
        assert!(caused != left_out, "{}: in the corpus {caused}, left out {left_out}", reason.name());
    }
    for domain in firebreak_proxy::verdict::advice::DOMAINS {
        assert!(causes::all().any(|cause| cause.domain == domain), "{}", domain.name());
    }
}

#[test]
fn names_are_told_apart() {
    for protocol in Protocol::ALL {
        let mut names: Vec<_> =
            causes::all().filter(|cause| cause.on.contains(&protocol)).map(|cause| cause.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{}", protocol.name());
    }
}
