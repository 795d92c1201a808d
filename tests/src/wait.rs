//! Waiting for what happens elsewhere: asked again and again until it is so, with a deadline and a name for the error.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

/// How long [`until`] asks.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const PACE: Duration = Duration::from_millis(50);

/// Asks until the answer is yes, for 30 seconds.
pub fn until(what: &str, is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    within(PATIENCE, what, is_so).map(drop)
}

/// Asks until the answer is yes, for as long as `patience`. How long it took.
///
/// An error counts as no: what is asked may not exist yet. The last one is told when time is up.
pub fn within(
    patience: Duration,
    what: &str,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    loop {
        let answer = is_so();
        if matches!(answer, Ok(true)) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > patience {
            answer.with_context(|| format!("gave up waiting until {what}"))?;
            anyhow::bail!("gave up waiting until {what}, after {patience:?}");
        }
        // What is waited for happens in other processes and machines; there is no event of theirs to await here.
        std::thread::sleep(PACE);
    }
}
