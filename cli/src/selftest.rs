//! `firebreak selftest`: both ends of a request for the chart's `helm test`, which has no other tool in its image.
//!
//! `serve` answers as the path asks; `call` sends requests until the one that is expected comes back. Hidden from `--help`:
//! it is of no use to people.

use std::{process::ExitCode, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{
    args::{CallArgs, SelftestCommand, ServeArgs},
    http::{self, Answer},
};

/// Between two calls of `call`.
const PAUSE: Duration = Duration::from_millis(500);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(command: &SelftestCommand) -> anyhow::Result<ExitCode> {
    match command {
        SelftestCommand::Serve(args) => serve(args).await,
        SelftestCommand::Call(args) => Ok(call(args).await),
    }
}

async fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen).await?;
    anstream::println!("listening on {}", listener.local_addr()?);
    // As process 1 of a container a signal without a handler does nothing.
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        never = http::serve(listener, as_asked) => match never {},
        _ = term.recv() => Ok(ExitCode::SUCCESS),
    }
}

/// `/status/503` answers with that status, `/delay/2s` answers late, everything else with 200.
async fn as_asked(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if let Some(delay) =
        path.strip_prefix("/delay/").and_then(|delay| delay.parse::<firebreak_crds::spec::Duration>().ok())
    {
        sleep(delay.get()).await;
    }
    let status = path.strip_prefix("/status/").and_then(|status| status.parse().ok());
    http::answer(status.unwrap_or(200), "firebreak selftest\n")
}

async fn call(args: &CallArgs) -> ExitCode {
    let end = Instant::now() + args.within.get();
    loop {
        match http::get(&args.url, PATIENCE).await {
            Ok(answer) => {
                anstream::println!("{} {}", answer.status, answer.proxy_status());
                if expected(args, &answer) {
                    return ExitCode::SUCCESS;
                }
            }
            Err(error) => anstream::println!("error: {error}"),
        }
        if Instant::now() + PAUSE > end {
            return ExitCode::FAILURE;
        }
        sleep(PAUSE).await;
    }
}

fn expected(args: &CallArgs, answer: &Answer) -> bool {
    args.expect_reason.as_deref().is_none_or(|reason| answer.reason() == Some(reason))
        && args.expect_status.is_none_or(|status| answer.status == status)
}
