//! What a proxy holds, and whether its books are right.

use std::{fmt, fs};

use anyhow::{Context, ensure};
use firebreak_proxy::verdict::FATES;
use firebreak_tests::cluster::metrics::Metrics;

use crate::world::World;

/// How much more memory the proxy may hold at the end than after the warm-up: what the allocator keeps depends on how the last
/// requests lay. A leak of one request's head, 1 KiB, in a hundred would be more within a minute.
const MEMORY_GROWTH: f64 = 0.25;
const MEMORY_SLACK_KIB: f64 = 6.0 * 1024.0;

/// What a proxy holds at a moment.
pub(crate) struct Rest {
    memory_kib: f64,
    files: usize,
    connections: f64,
    requests: f64,
    pending: f64,
    upstream: f64,
    under_faults: f64,
}

impl Rest {
    /// Of this process, with these metrics.
    pub(crate) fn of(pid: u32, metrics: &Metrics) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let memory = memory.trim().trim_end_matches(" kB").parse()?;
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let in_use = |resource| metrics.sum("firebreak_bulkhead_in_use", &[("resource", resource)]);
        Ok(Self {
            memory_kib: memory,
            files,
            connections: metrics.sum("firebreak_connections", &[]),
            requests: in_use("requests"),
            pending: in_use("pending"),
            upstream: in_use("connections"),
            under_faults: metrics.sum("firebreak_fault_active", &[]),
        })
    }

    /// What there is now and was not before the load.
    pub(crate) fn left(&self, before: &Self) -> Vec<String> {
        let held = [
            ("callers' connections", self.connections, before.connections),
            ("permits of requests", self.requests, before.requests),
            ("permits of pending requests", self.pending, before.pending),
            ("permits of connections", self.upstream, before.upstream),
            ("requests under a fault", self.under_faults, before.under_faults),
        ];
        let held = held
            .iter()
            .filter(|(_, now, before)| now > before)
            .map(|(what, now, before)| format!("{} {what}", now - before));
        let files = (self.files > before.files).then(|| format!("{} open files", self.files - before.files));
        held.chain(files).collect()
    }

    /// That the memory has not grown since.
    pub(crate) fn compare(&self, warm: &Self) -> anyhow::Result<()> {
        let bound = warm.memory_kib * (1.0 + MEMORY_GROWTH) + MEMORY_SLACK_KIB;
        ensure!(self.memory_kib <= bound, "memory: {:.0} KiB after the load, at most {bound:.0}", self.memory_kib);
        Ok(())
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_kib, files, connections, requests, pending, upstream, under_faults } = self;
        write!(
            f,
            "{:.1} MiB, {files} files, {connections} connections in, {upstream} out, {requests} requests, {pending} pending, {under_faults} under faults",
            memory_kib / 1024.0
        )
    }
}

/// That each request that was sent has a fate, and only one.
pub(crate) fn account(world: &World, metrics: &Metrics) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    println!("\n{:14} {:>9} {:>9}  by fate", "callers", "sent", "in books");
    for service in &world.services {
        let name = format!("soak/{}", service.kind.name());
        let fates = FATES.iter().map(|fate| {
            (fate.name(), metrics.sum("firebreak_requests_total", &[("service", &name), ("fate", fate.name())]))
        });
        let fates: Vec<_> = fates.filter(|(_, count)| *count > 0.0).collect();
        let counted: f64 = fates.iter().map(|(_, count)| count).sum();
        let sent = world.tally.sent(service.kind);
        let list: Vec<_> = fates.iter().map(|(fate, count)| format!("{fate} {count}")).collect();
        println!("{:14} {sent:>9} {counted:>9}  {}", service.kind.name(), list.join(", "));
        #[allow(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
        let difference = counted - sent as f64;
        if difference != 0.0 {
            wrong.push(format!("{}: {difference:+}", service.kind.name()));
        }
    }
    let unknown = metrics.sum("firebreak_requests_total", &[("service", "unknown")]);
    ensure!(unknown == 0.0, "{unknown} requests are entered for a callee that nobody called");
    ensure!(wrong.is_empty(), "requests in the books that were not sent, or the other way: {}", wrong.join(", "));
    Ok(())
}
