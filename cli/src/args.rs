//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use firebreak_crds::spec::Duration;
use hyper::Uri;

/// Resilience between services, explained: check policies, run them on a laptop, see them at work.
///
/// Works as `kubectl firebreak` too, when the program is on the PATH as `kubectl-firebreak`.
#[derive(Debug, Parser)]
#[command(
    name = "firebreak",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lint(LintArgs),
    Completion(CompletionArgs),
    /// Print the version of this program.
    Version,
    /// For `helm test`.
    #[command(subcommand, hide = true)]
    Selftest(SelftestCommand),
}

/// Check TrafficPolicies and FaultSpecs without a cluster.
///
/// Evaluates the schema and the rules that the API server evaluates, and warns about what is valid and cannot work. Exit code
/// 0: nothing wrong; 1: something is; 2: the files could not be read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  firebreak lint policies/                 every .yaml, .yml and .json below a folder
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
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
}

/// Send a request, print its status and Proxy-Status, and succeed only if they are as expected.
#[derive(Args, Debug)]
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
