//! The metrics as text, in the OpenMetrics format that Prometheus reads.

mod exemplified;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, MetricEncoder, NoLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::MetricType,
};
use tokio::time::Instant;

use super::metrics::{CODES, CalleeMetrics, FAULT_KINDS, Registry};
use crate::{
    policy::{
        balance::{UNHEALTHY, WARMING},
        breaker::{Counts, STATES, State},
        concurrency::{self, Usage},
        hedge::REFUSED,
    },
    verdict::{ATTEMPT_OUTCOMES, FATES},
};

/// What a reader that knows examples names in `Accept`.
pub const MEDIA_TYPE: &str = "application/openmetrics-text";

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text, `with_exemplars` for a reader that asks for OpenMetrics and so knows what they are.
///
/// # Errors
/// When something does not let itself be written as text.
pub fn text(registry: &Arc<Registry>, with_exemplars: bool) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(16 * 1024);
    let mut exposition = prometheus_client::registry::Registry::with_prefix("firebreak");
    exposition.register_collector(Box::new(Exposed(Arc::clone(registry))));
    encode_registry(&mut text, &exposition)?;
    exemplified::write(&mut text, &registry.callees(), with_exemplars)?;
    encode_eof(&mut text)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposed(Arc<Registry>);

/// A callee's three labels, and up to two more.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let callees = self.0.callees();
        requests(&mut encoder, &callees)?;
        attempts(&mut encoder, &callees)?;
        bulkheads(&mut encoder, &callees)?;
        breakers(&mut encoder, &callees)?;
        observed(&mut encoder, &callees)?;
        concurrency_limits(&mut encoder, &callees)?;
        self.faults(&mut encoder)?;
        self.recorder(&mut encoder)?;
        self.config(&mut encoder)
    }
}

fn labels<'a>(callee: &'a CalleeMetrics, more: &[(&'static str, &'a str)]) -> Labels<'a> {
    let mut labels: Labels<'a> =
        vec![("direction", callee.direction.name()), ("service", &callee.service), ("port", &callee.port)];
    labels.extend_from_slice(more);
    labels
}

/// Series that never counted anything are left out: a callee has a hundred of them and uses a few.
fn count(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> fmt::Result {
    if value == 0 {
        return Ok(());
    }
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> fmt::Result {
    metric.encode_family(labels)?.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
}

fn requests(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "requests",
        "Requests that are over, by how they ended; the fates of a callee add up to its requests",
        None,
        MetricType::Counter,
    )?;
    for callee in callees {
        for fate in FATES {
            for (class, code) in CODES.iter().enumerate() {
                let labels = labels(callee, &[("fate", fate.name()), ("code", code)]);
                count(&mut metric, &labels, callee.requests(fate, class))?;
            }
        }
    }
    Ok(())
}

fn attempts(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let mut metric = encoder.encode_descriptor("attempts", "Tries, by what each brought", None, MetricType::Counter)?;
    for callee in callees {
        for outcome in ATTEMPT_OUTCOMES {
            count(&mut metric, &labels(callee, &[("outcome", outcome.name())]), callee.attempts(outcome))?;
        }
    }
    let help = "Retries that the policy wanted and did not get, by cause";
    let mut metric = encoder.encode_descriptor("retries_refused", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[("cause", "budget")]), callee.sum(|shard| shard.retries_refused.get()))?;
        count(&mut metric, &labels(callee, &[("cause", "pushback")]), callee.sum(|shard| shard.pushed_back.get()))?;
        count(&mut metric, &labels(callee, &[("cause", "layers")]), callee.sum(|shard| shard.left_to_layers.get()))?;
    }
    hedges(encoder, callees)?;
    let help = "Dead pooled connections that were replaced without counting a retry";
    let mut metric = encoder.encode_descriptor("connections_replaced", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.replaced.get()))?;
    }
    keep_alive(encoder, callees)?;
    let help = "Connections forwarded without looking inside";
    let mut metric = encoder.encode_descriptor("opaque_connections", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.opaque.get()))?;
    }
    let help = "Bytes forwarded on opaque and upgraded connections, both ways together";
    let mut metric = encoder.encode_descriptor("opaque_bytes", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.opaque_bytes.get()))?;
    }
    Ok(())
}

fn hedges(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let help = "Second tries that were sent beside slow ones";
    let mut metric = encoder.encode_descriptor("hedges_sent", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.hedges_sent.get()))?;
    }
    let help = "Second tries that brought a good answer before the first did";
    let mut metric = encoder.encode_descriptor("hedges_won", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.hedges_won.get()))?;
    }
    let help = "Slow tries beside which no second was sent, by cause";
    let mut metric = encoder.encode_descriptor("hedges_refused", help, None, MetricType::Counter)?;
    for callee in callees {
        for cause in REFUSED {
            let refused = callee.sum(|shard| shard.hedges_refused[cause as usize].get());
            count(&mut metric, &labels(callee, &[("cause", cause.name())]), refused)?;
        }
    }
    Ok(())
}

fn keep_alive(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let help = "Idle connections that were not used again, because the callee was about to close them";
    let mut metric = encoder.encode_descriptor("connections_given_up", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.sum(|shard| shard.given_up.get()))?;
    }
    let help = "After how long the callee closes an idle connection, as learned from those that it closed";
    let mut metric = encoder.encode_descriptor("callee_idle_timeout_seconds", help, None, MetricType::Gauge)?;
    let now = Instant::now();
    for (callee, known) in callees.iter().filter_map(|callee| Some((callee, callee.keep_alive.known(now)?))) {
        metric.encode_family(&labels(callee, &[]))?.encode_gauge(&known.as_secs_f64())?;
    }
    Ok(())
}

fn bulkheads(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let help = "What a callee takes of this proxy now, by resource";
    let mut metric = encoder.encode_descriptor("bulkhead_in_use", help, None, MetricType::Gauge)?;
    for callee in callees {
        let Some(gate) = callee.gate() else { continue };
        let usage = gate.usage();
        for (resource, used) in
            [("requests", usage.requests), ("connections", usage.connections), ("pending", usage.pending)]
        {
            gauge(&mut metric, &labels(callee, &[("resource", resource)]), u64::from(used))?;
        }
    }
    let help = "The most that a callee may take of this proxy, by resource";
    let mut metric = encoder.encode_descriptor("bulkhead_limit", help, None, MetricType::Gauge)?;
    for callee in callees {
        let Some(limits) = callee.gate().map(|gate| gate.limits()) else { continue };
        let bounded = [
            ("requests", limits.max_requests),
            ("connections", limits.max_connections),
            ("pending", limits.max_pending),
        ];
        for (resource, limit) in bounded.into_iter().filter(|(_, limit)| *limit != u32::MAX) {
            gauge(&mut metric, &labels(callee, &[("resource", resource)]), u64::from(limit))?;
        }
    }
    Ok(())
}

/// A number of a limit on requests at once.
type Shown = fn(Usage) -> u32;

fn concurrency_limits(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let limits: Vec<_> = callees.iter().map(|callee| (callee, callee.limits())).collect();
    let shown: Vec<_> = limits.iter().filter(|(_, limits)| !limits.is_empty()).collect();
    let gauges: [(&str, &str, Shown); 3] = [
        ("concurrency_limit", "Requests that the application may work on at once, as the limit is now", |it| it.limit),
        ("concurrency_in_flight", "Requests that the application works on now", |it| it.in_flight),
        ("concurrency_pending", "Requests that wait before the application now", |it| it.pending),
    ];
    for (name, help, of) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (callee, limits) in &shown {
            gauge(&mut metric, &labels(callee, &[]), limits.iter().map(|it| u64::from(of(it.usage()))).sum())?;
        }
    }
    let help = "How long the application took to answer, on average of the last hundred requests or second";
    let mut metric = encoder.encode_descriptor("concurrency_latency_seconds", help, None, MetricType::Gauge)?;
    for (callee, limits) in &shown {
        let takes = limits.iter().map(|it| it.usage().takes).max().unwrap_or_default();
        metric.encode_family(&labels(callee, &[]))?.encode_gauge(&takes.as_secs_f64())?;
    }
    let help = "Requests that were not let in to the application, by cause";
    let mut metric = encoder.encode_descriptor("concurrency_refused", help, None, MetricType::Counter)?;
    for (callee, limits) in &shown {
        for cause in concurrency::REFUSED {
            count(
                &mut metric,
                &labels(callee, &[("cause", cause.name())]),
                limits.iter().map(|it| it.refused(cause)).sum(),
            )?;
        }
    }
    Ok(())
}

fn breakers(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let now = Instant::now();
    let watched: Vec<_> = callees.iter().map(|callee| (callee, callee.breakers())).collect();
    let help = "Where a callee's breaker is: 1 for its state, 0 for the others";
    let mut metric = encoder.encode_descriptor("breaker_state", help, None, MetricType::Gauge)?;
    for (callee, breakers) in &watched {
        let Some(breaker) = &breakers.callee else { continue };
        let current = breaker.state();
        for state in STATES {
            gauge(&mut metric, &labels(callee, &[("state", state.name())]), u64::from(state == current))?;
        }
    }
    let help = "Endpoints of a callee, by state: that of their breakers; warming where new; unhealthy where health checks say so";
    let mut metric = encoder.encode_descriptor("endpoints", help, None, MetricType::Gauge)?;
    for (callee, breakers) in watched.iter().filter(|(_, breakers)| !breakers.endpoints.is_empty()) {
        let states: Vec<_> = breakers.endpoints.iter().map(|endpoint| endpoint.state(now)).collect();
        for state in STATES.map(State::name).into_iter().chain([WARMING, UNHEALTHY]) {
            let count = states.iter().filter(|it| **it == state).count();
            gauge(&mut metric, &labels(callee, &[("state", state)]), u64::try_from(count).unwrap_or(u64::MAX))?;
        }
    }
    let help = "How often breakers came into a state, the callee's own or those of its endpoints";
    let mut metric = encoder.encode_descriptor("breaker_transitions", help, None, MetricType::Counter)?;
    for callee in callees {
        for (level, counts) in levels(callee) {
            for state in STATES {
                let labels = labels(callee, &[("level", level), ("state", state.name())]);
                count(&mut metric, &labels, counts.entered(state))?;
            }
        }
    }
    let help = "Tries that breakers did not admit";
    let mut metric = encoder.encode_descriptor("breaker_refused", help, None, MetricType::Counter)?;
    for callee in callees {
        for (level, counts) in levels(callee) {
            count(&mut metric, &labels(callee, &[("level", level)]), counts.refused())?;
        }
    }
    let help = "Health checks of endpoints";
    let mut metric = encoder.encode_descriptor("health_checks", help, None, MetricType::Counter)?;
    for callee in callees {
        for (result, checks) in ["failed", "passed"].into_iter().zip(callee.health_checks()) {
            count(&mut metric, &labels(callee, &[("result", result)]), checks)?;
        }
    }
    let help = "Endpoints that failed and were not ejected, because as many as may be were out already";
    let mut metric = encoder.encode_descriptor("ejections_refused", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.endpoint_breakers.kept_in())?;
    }
    Ok(())
}

fn observed(encoder: &mut DescriptorEncoder<'_>, callees: &[Arc<CalleeMetrics>]) -> fmt::Result {
    let now = Instant::now();
    let observers: Vec<_> =
        callees.iter().filter_map(|callee| Some((callee, callee.breakers().observed.clone()?))).collect();
    // What would have been done since the last request told of anything is to be seen too.
    for (_, observer) in &observers {
        observer.catch_up(now);
    }
    let help = "Requests that a policy followed which is observed";
    let mut metric = encoder.encode_descriptor("observed_requests", help, None, MetricType::Counter)?;
    for callee in callees {
        count(&mut metric, &labels(callee, &[]), callee.observed.requests())?;
    }
    let help = "What it would have done, by protection";
    let mut metric = encoder.encode_descriptor("observed", help, None, MetricType::Counter)?;
    for callee in callees {
        for ((protection, would), times) in callee.observed.all() {
            count(&mut metric, &labels(callee, &[("protection", protection), ("would", would)]), times)?;
        }
    }
    let help = "Where the breaker of a policy is that is observed: 1 for its state, 0 for the others";
    let mut metric = encoder.encode_descriptor("observed_breaker_state", help, None, MetricType::Gauge)?;
    for (callee, observer) in observers {
        let Some(breaker) = &observer.shadow.breaker else { continue };
        let current = breaker.state();
        for state in STATES {
            gauge(&mut metric, &labels(callee, &[("state", state.name())]), u64::from(state == current))?;
        }
    }
    Ok(())
}

fn levels(callee: &CalleeMetrics) -> [(&'static str, &Counts); 2] {
    [("service", &callee.breaker), ("endpoint", &callee.endpoint_breakers)]
}

impl Exposed {
    fn faults(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Tries hit by a FaultSpec, by kind of fault";
        let mut metric = encoder.encode_descriptor("fault_injected", help, None, MetricType::Counter)?;
        let faults = self.0.faults();
        for (name, fault) in &faults {
            for kind in FAULT_KINDS {
                let hits = fault.hits[kind as usize].load(Relaxed);
                count(&mut metric, &vec![("fault", name), ("kind", kind.name())], hits)?;
            }
        }
        let help = "Tries that a FaultSpec spared, because as many requests as it may hit at once were under it";
        let mut metric = encoder.encode_descriptor("fault_spared", help, None, MetricType::Counter)?;
        for (name, fault) in &faults {
            count(&mut metric, &vec![("fault", name)], fault.active.spared())?;
        }
        let help = "Requests that are under a FaultSpec now";
        let mut metric = encoder.encode_descriptor("fault_active", help, None, MetricType::Gauge)?;
        for (name, fault) in &faults {
            gauge(&mut metric, &vec![("fault", name)], u64::from(fault.active.requests()))?;
        }
        Ok(())
    }

    fn recorder(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.0.recorder;
        for (name, help, value) in [
            ("recorder_records", "Records in the flight recorder", &counts.records),
            ("recorder_bytes", "Bytes that the records in the flight recorder take", &counts.bytes),
        ] {
            let value = i64::try_from(value.load(Relaxed)).unwrap_or(i64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let late = "Records that the flight recorder did not get, because the control thread could not keep up";
        for (name, help, value) in [
            ("recorder_evicted", "Records that made room for newer ones in the flight recorder", &counts.evicted),
            ("recorder_dropped", late, &counts.dropped),
        ] {
            let metric = &mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value.load(Relaxed), None)?;
        }
        Ok(())
    }

    fn config(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let config = self.0.config();
        let [applied, refused, problems, ignored] = config.counts();
        for (name, help, value) in [
            ("config_applied", "Configs put in force", applied),
            ("config_refused", "Configs of which nothing could be used; the last good one stays", refused),
            ("spans_exported", "Spans that the collector took", self.0.spans_exported.load(Relaxed)),
            (
                "spans_dropped",
                "Spans that were too many, or that the collector did not take",
                self.0.spans_dropped.load(Relaxed),
            ),
            (
                "log_lines_dropped",
                "Lines of standard output dropped, because nobody reads them or not as fast as they come",
                self.0.log_dropped.load(Relaxed),
            ),
            (
                "connections_idle_closed",
                "Connections of callers that were closed because no request came by them for too long",
                self.0.connections.idle_closed(),
            ),
            (
                "replay_refused",
                "Requests whose bodies were not kept for another try, because others took all that may be kept",
                self.0.replay.refused(),
            ),
        ] {
            let metric = &mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let connections = &self.0.connections;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("connections", "Connections that callers have open", count(connections.open())),
            ("connections_at_rest", "Those of them that hold no buffers", count(connections.resting())),
            ("connections_limit", "Most that they may have open; one more is reset", count(connections.limit())),
            ("replay_bytes", "Bytes of bodies that are kept for another try", count(self.0.replay.held())),
            ("replay_limit_bytes", "Most that may be kept of them", count(self.0.replay.limit())),
            ("config_problems", "Broken entries of the newest config, kept in their last good form", problems),
            ("config_ignored", "Fields and entries of the newest config that this version does not know", ignored),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
        }
        if let Some(age) = config.age() {
            let help = "Seconds since the config in force was applied";
            encoder.encode_descriptor("config_age_seconds", help, None, MetricType::Gauge)?.encode_gauge(&age)?;
        }
        let mut metric = encoder.encode_descriptor("build", "What runs", None, MetricType::Info)?;
        metric.encode_info(&vec![("version", env!("CARGO_PKG_VERSION"))])
    }
}
