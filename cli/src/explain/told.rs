//! What the recorder tells, and which of it is meant.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// The recorder's answer.
#[derive(Debug)]
pub(super) struct Found {
    /// Whose recorder it is.
    pub(super) proxy: String,
    /// Every failure since then is there.
    pub(super) since: Timestamp,
    /// Every slowed request since then is there.
    pub(super) slowed_since: Timestamp,
    /// The newest first.
    pub(super) records: Vec<Told>,
}

/// A record, as it came and as it is understood.
#[derive(Debug)]
pub(super) struct Told {
    raw: Value,
    pub(super) record: Record,
}

/// One request. Words are those of the proxy that told it, which may be of another version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    pub(super) direction: String,
    pub(super) service: String,
    pub(super) port: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) request_id: Option<String>,
    pub(super) traceparent: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) fate: String,
    pub(super) reason: Option<String>,
    pub(super) fault_domain: Option<String>,
    pub(super) attempts: u32,
    pub(super) duration_ms: u64,
    pub(super) policy: Option<String>,
    pub(super) policy_generation: Option<i64>,
    pub(super) fault: Option<String>,
    pub(super) dependency: Option<String>,
    pub(super) callee_idle_timeout_ms: Option<u64>,
    pub(super) tries: Vec<Try>,
}

/// One try of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Try {
    pub(super) number: u32,
    pub(super) hedge: bool,
    pub(super) endpoint: String,
    pub(super) started_ms: u64,
    pub(super) duration_ms: u64,
    pub(super) outcome: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) grpc_status: Option<u8>,
    pub(super) fault: Option<String>,
    pub(super) delay_ms: Option<u64>,
    pub(super) connection_reused: Option<bool>,
    pub(super) connection_age_ms: Option<u64>,
    pub(super) connection_idle_ms: Option<u64>,
    pub(super) bytes_sent: Option<u64>,
    pub(super) bytes_received: Option<u64>,
    pub(super) errno: Option<String>,
}

/// Why it is not known which request is meant.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOne {
    /// There is none.
    #[error("there is no such request")]
    None,
    /// These begin like that.
    #[error("several requests begin like that; ask for one of them:\n  {}", .0.join("\n  "))]
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Envelope {
    proxy: String,
    since: Timestamp,
    slowed_since: Timestamp,
    records: Vec<Value>,
}

impl Found {
    /// Reads the admin port's answer.
    pub(super) fn read(body: &[u8]) -> anyhow::Result<Self> {
        let Envelope { proxy, since, slowed_since, records } = serde_json::from_slice(body)?;
        let told = |raw: Value| Ok(Told { record: Record::deserialize(&raw)?, raw });
        let records = records.into_iter().map(told).collect::<Result<_, serde_json::Error>>()?;
        Ok(Self { proxy, since, slowed_since, records })
    }

    /// The same, for programs.
    pub(super) fn as_json(&self) -> Value {
        let records: Vec<_> = self.records.iter().map(|told| &told.raw).collect();
        json!({"proxy": self.proxy, "since": self.since, "slowed_since": self.slowed_since, "records": records})
    }
}

impl Record {
    /// Its trace's id.
    pub(super) fn trace(&self) -> Option<&str> {
        self.traceparent.as_ref()?.get(3..35)
    }

    /// The id by which it is asked for.
    pub(super) fn id(&self) -> Option<&str> {
        self.request_id.as_deref().or_else(|| self.trace())
    }

    /// What `id` is: the whole of one of its ids, or the beginning of this one.
    fn meant_by(&self, id: &str) -> Option<(bool, &str)> {
        let known = [
            (self.request_id.as_deref(), self.request_id.as_deref()),
            (self.trace(), self.trace()),
            (self.traceparent.as_deref(), self.trace()),
        ];
        let known = || known.into_iter().filter_map(|(id, name)| id.zip(name));
        let whole = known().find(|(known, _)| *known == id).map(|(_, name)| (true, name));
        whole.or_else(|| known().find(|(known, _)| known.starts_with(id)).map(|(_, name)| (false, name)))
    }
}

/// The records that `id` means, of those that have it or an id that begins with it. One id may mean several: calls of one
/// trace, or a request that came again.
pub(super) fn chosen(records: Vec<Told>, id: &str) -> Result<Vec<Told>, NotOne> {
    let whole = |told: &Told| told.record.meant_by(id).is_some_and(|(whole, _)| whole);
    if records.iter().any(whole) {
        return Ok(records.into_iter().filter(whole).collect());
    }
    let names: BTreeSet<_> =
        records.iter().filter_map(|told| told.record.meant_by(id)).map(|(_, name)| name.to_owned()).collect();
    match names.len() {
        0 => Err(NotOne::None),
        1 => Ok(records),
        _ => Err(NotOne::Several(names.into_iter().collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ids: &[(&str, &str)]) -> Vec<Told> {
        let records: Vec<_> = ids
            .iter()
            .map(|(id, trace)| json!({"request_id": id, "traceparent": format!("00-{trace:0>32}-00f067aa0ba902b7-01")}))
            .collect();
        let now = Timestamp::now();
        let body = json!({"proxy": "web", "since": now, "slowed_since": now, "records": records});
        Found::read(&serde_json::to_vec(&body).unwrap()).unwrap().records
    }

    #[test]
    fn the_whole_id_goes_before_those_that_begin_with_it() {
        let ids = [("checkout-1", "a"), ("checkout-12", "b"), ("checkout-1", "c")];
        assert_eq!(chosen(told(&ids), "checkout-1").unwrap().len(), 2);
        let several = chosen(told(&ids), "checkout-").unwrap_err().to_string();
        assert!(several.ends_with("ask for one of them:\n  checkout-1\n  checkout-12"), "{several}");
        assert_eq!(chosen(told(&ids), "checkout-12").unwrap().len(), 1);
        assert!(matches!(chosen(told(&ids), "elsewhere"), Err(NotOne::None)));
    }

    #[test]
    fn calls_of_one_trace_are_one_question() {
        let ids = [("a", "4bf92f3577b34da6a3ce929d0e0e4736"), ("b", "4bf92f3577b34da6a3ce929d0e0e4736")];
        assert_eq!(chosen(told(&ids), "4bf92f35").unwrap().len(), 2);
        assert_eq!(chosen(told(&ids), "00-4bf92f35").unwrap().len(), 2);
    }
}
