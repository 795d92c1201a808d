//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use firebreak_crds::spec::Duration;
use hyper::Uri;

use crate::demo::{LEAST, MOST, PARTS, REQUEST};

/// Resilience between services, explained: check policies, run them on a laptop, see them at work.
///
/// Works as `kubectl firebreak` too, when the program is on the PATH as `kubectl-firebreak`.
#[derive(Debug, Parser)]
#[command(
    name = "firebreak",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  firebreak demo                    see what policies do, on this machine
  firebreak local examples/local    run the proxy with your own YAML
  firebreak lint policies/          check YAML, in an editor or in CI
  firebreak explain --last          what failed last, and why"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Lint(LintArgs),
    Local(LocalArgs),
    Explain(ExplainArgs),
    Completion(CompletionArgs),
    /// Print the version of this program.
    #[command(after_help = "Examples:\n  firebreak version    for example to put it into a bug report")]
    Version,
    /// For `helm test`.
    #[command(subcommand, hide = true)]
    Selftest(SelftestCommand),
}

/// See timeouts, retries, bulkheads and faults at work, on this machine.
///
/// Starts sample services and the proxy on 127.0.0.1, applies the three examples of the 2018 talk, a circuit breaker
/// and a policy that is only observed in turn, sends real requests, and compares what became of them with what the policies promise. Exit code 1: a promise was broken.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak demo                 about ten seconds
  firebreak demo --for 14s       over by then, with fewer requests
  firebreak demo --json | jq '.parts[].checks[]'")]
pub(crate) struct DemoArgs {
    /// The longest that it may take, from 14s to 10m
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = length)]
    pub(crate) length: Duration,
    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let length: Duration = text.parse().map_err(|error| format!("{error}"))?;
    if (LEAST..=MOST).contains(&length.get()) {
        return Ok(length);
    }
    let most = MOST.as_secs() / 60;
    let why = format!("the six parts take {PARTS:?}, and the last request may take {REQUEST:?}");
    Err(format!("must be from {LEAST:?} to {most}m: {why}"))
}

/// Check TrafficPolicies and FaultSpecs without a cluster.
///
/// Evaluates the schema and the rules that the API server evaluates, and warns about what is valid and cannot work. Exit code
/// 0: nothing wrong; 1: something is; 2: the files could not be read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak lint policies/                 .yaml, .yml and .json below a folder
  firebreak lint a.yaml b.yaml --strict    in CI: warnings are errors
  helm template . | firebreak lint -       standard input
  kubectl get tpol,fspec -A -o yaml | firebreak lint - --json")]
pub(crate) struct LintArgs {
    /// Files, folders, or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pub(crate) paths: Vec<PathBuf>,
    /// Treat warnings as errors
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run the proxy on this machine with a folder of YAML.
///
/// Reads TrafficPolicy, FaultSpec, Service, EndpointSlice and Namespace objects, listens on 127.0.0.1 for each Service port,
/// and reads the folder again whenever a file changes. A Service finds its processes by EndpointSlices with the label
/// `kubernetes.io/service-name`. Needs no cluster and no rights.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak local examples/local         listen, and print `ready`
  firebreak local . -n shop -l app=web   as such a pod, for `from` to decide
  firebreak local . --check              only say what would be served
  firebreak local . --json | jq 'select(.event == \"failure\")'

A Service port below 1024, or one that is taken, moves to a free port.
To choose one, annotate the Service:
  metadata:
    annotations: {firebreak.dev/local-ports: \"80=18080,9000=19000\"}")]
pub(crate) struct LocalArgs {
    /// Folder with the YAML files
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Namespace of the caller, and of objects that name none
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Labels of the calling pod, which `from` selects by
    #[arg(long, short, value_delimiter = ',', value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Where metrics and config are served; port 0 picks one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    pub(crate) admin: SocketAddr,
    /// Print JSON objects, one a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Say what would be served, and whether the files are right, without listening
    #[arg(long)]
    pub(crate) check: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| format!("`{text}` is not a label: write KEY=VALUE, such as app=web"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Tell what happened to a request: each try, the verdict, and what to do next.
///
/// Asks the flight recorder of the proxy that carried it, which keeps the last requests that failed, were refused, or were slowed
/// by another try or an injected delay. Exit code 1: it has no such request.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("what").required(true).args(["id", "last"])),
    after_help = "Examples:
  firebreak explain --last 20                     what failed last
  firebreak explain checkout-17                   by x-request-id
  firebreak explain 4bf92f35                      by the start of a trace's id
  firebreak explain 4bf92f35 --json | jq '.records[].tries[]'

A pod's proxy answers to the pod only; in another terminal run:
  kubectl port-forward -n shop web-7d4b9c-x2x8v 15020"
)]
pub(crate) struct ExplainArgs {
    /// The x-request-id or trace id, or at least its first 8 characters
    #[arg(value_name = "REQUEST_ID")]
    pub(crate) id: Option<String>,
    /// List the last so many instead
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10", value_parser = value_parser!(u16).range(1..))]
    pub(crate) last: Option<u16>,
    /// The proxy's admin port; `firebreak local` prints its own
    #[arg(long, default_value = "http://127.0.0.1:15020", value_name = "URL", value_parser = admin)]
    pub(crate) admin: Uri,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn admin(text: &str) -> Result<Uri, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let usable = |url: &Uri| url.scheme_str() == Some("http") && url.port_u16().is_some();
    let wrong = || format!("`{text}` is no admin port: write http://HOST:PORT, such as http://127.0.0.1:15020");
    url.parse().ok().filter(usable).ok_or_else(wrong)
}

/// Print a completion script for a shell.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak completion bash > /etc/bash_completion.d/firebreak
  firebreak completion zsh > \"${fpath[1]}/_firebreak\"
  firebreak completion fish > ~/.config/fish/completions/firebreak.fish")]
pub(crate) struct CompletionArgs {
    pub(crate) shell: Shell,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SelftestCommand {
    Serve(ServeArgs),
    Call(CallArgs),
}

/// Answer HTTP requests: /status/503 with that status, /delay/2s late, others with 200.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak selftest serve --listen 127.0.0.1:8080")]
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
}

/// Send a request, print its status and Proxy-Status, and succeed only if they are as expected.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak selftest call http://service2:8080/status/503 --expect-status 503
  firebreak selftest call http://service2:8080/delay/2s --within 1m \\
    --expect-reason attempt_timeout")]
pub(crate) struct CallArgs {
    /// What to call, such as `http://service2:8080/delay/2s`
    pub(crate) url: Uri,
    /// The reason that the proxy must give, such as `attempt_timeout`
    #[arg(long, value_name = "REASON")]
    pub(crate) expect_reason: Option<String>,
    /// The status that must come back
    #[arg(long, value_name = "STATUS")]
    pub(crate) expect_status: Option<u16>,
    /// Repeat the request for as long, until it is as expected
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) within: Duration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
