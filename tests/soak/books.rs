//! What a proxy holds, and whether its books are right.

use std::{fmt, fs};

use anyhow::{Context, ensure};
use firebreak_proxy::verdict::FATES;
use firebreak_tests::cluster::metrics::Metrics;

use crate::{kind::Kind, world::World};

/// How much more memory the proxy may hold at the end than after the warm-up: not all that is taken once and kept is there by then,
/// but that does not grow with the number of requests, and a leak does. 1 KiB in a hundred requests is 10.2 bytes a request.
const MEMORY_SLACK_KIB: f64 = 2.0 * 1024.0;
const MEMORY_BYTES_A_REQUEST: f64 = 2.0;

/// How the books name a callee that the config does not.
const UNKNOWN: &str = "unknown";

/// What a proxy holds at a moment.
pub(crate) struct Rest {
    memory_kib: f64,
    files: f64,
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
        let files = f64::from(u32::try_from(fs::read_dir(format!("/proc/{pid}/fd"))?.count())?);
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

    /// What there is now and was not before the load, but for connections that are kept for a next request.
    pub(crate) fn in_use(&self, before: &Self) -> Vec<String> {
        let kept = self.upstream - before.upstream;
        Self { upstream: before.upstream, files: self.files - kept, ..*self }.left(before)
    }

    /// Whichever holds less memory.
    pub(crate) fn least(self, other: Self) -> Self {
        if other.memory_kib < self.memory_kib { other } else { self }
    }

    /// That the memory has not grown since more than so many requests explain.
    pub(crate) fn compare(&self, warm: &Self, requests: u64) -> anyhow::Result<()> {
        #[allow(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
        let requests = requests as f64;
        let grown = self.memory_kib - warm.memory_kib;
        let bound = MEMORY_SLACK_KIB + requests * MEMORY_BYTES_A_REQUEST / 1024.0;
        println!("memory: {grown:+.0} KiB in {requests} requests, {:.1} bytes a request", grown * 1024.0 / requests);
        ensure!(grown <= bound, "memory: {grown:.0} KiB more after {requests} requests, at most {bound:.0}");
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
    println!("\n{:10} {:>8} {:>8}  by fate", "callers", "sent", "in books");
    for kind in Kind::ALL {
        let (counted, fates) = entered(metrics, &format!("soak/{}", kind.name()));
        let (least, most) = world.tally.sent(kind);
        println!("{:10} {most:>8} {counted:>8}  {fates}", kind.name());
        // Requests on a connection to a Service that has left are to a callee without a name. While the Service's listener is
        // still open they come in there once more, any number of times, and each time are entered: so they are no upper bound.
        let unnamed = if kind == Kind::Visits { entered(metrics, UNKNOWN).0 } else { 0.0 };
        #[allow(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
        let (least, most) = (least as f64, most as f64);
        if counted + unnamed < least || counted > most {
            wrong.push(format!("{}: {counted}, and {least} to {most} were sent", kind.name()));
        }
    }
    let (unnamed, fates) = entered(metrics, UNKNOWN);
    println!("{UNKNOWN:19} {unnamed:>8}  {fates}");
    ensure!(wrong.is_empty(), "requests in the books that were not sent, or the other way: {}", wrong.join(", "));
    Ok(())
}

/// How many requests a callee has in the books, and how many by fate.
fn entered(metrics: &Metrics, service: &str) -> (f64, String) {
    let fates = FATES.iter().map(|fate| {
        (fate.name(), metrics.sum("firebreak_requests_total", &[("service", service), ("fate", fate.name())]))
    });
    let fates: Vec<_> = fates.filter(|(_, count)| *count > 0.0).collect();
    let list: Vec<_> = fates.iter().map(|(fate, count)| format!("{fate} {count}")).collect();
    (fates.iter().map(|(_, count)| count).sum(), list.join(", "))
}
