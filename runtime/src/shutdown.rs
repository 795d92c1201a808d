//! An orderly end: SIGTERM (the kubelet) or SIGINT (a person) cancels one token that every task holds.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that is cancelled when the process is asked to end.
///
/// Must be called inside a tokio runtime. From then on the two signals no longer end the process by themselves, so whoever
/// calls this must return from `main` soon after the token is cancelled. A second signal ends it at once, for people who
/// will not wait.
pub fn token() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let signal = either(&mut terminate, &mut interrupt).await;
        info!(signal, "shutting down");
        cancelled.cancel();
        let signal = either(&mut terminate, &mut interrupt).await;
        info!(signal, "second signal, leaving at once");
        #[allow(clippy::exit, reason = "asked twice: nothing that is still running may hold the process")]
        std::process::exit(130);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
