//! Logging: JSON lines for machines, text for people, one filter for both.
//!
//! Lines go to standard error, so that standard output stays free for what a program is asked to print.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How much is logged and in what form.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// Which log lines are written, as tracing's filter directives: `info`, `warn,firebreak_operator=debug`.
    #[arg(long = "log", env = "FIREBREAK_LOG", default_value = "info")]
    pub filter: String,
    /// The form of the log lines.
    #[arg(long = "log-format", env = "FIREBREAK_LOG_FORMAT", default_value = "json")]
    pub format: Format,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Text, coloured on a terminal.
    Text,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error(
        "--log: `{filter}` is not a filter ({reason}): write a level such as info, or target=level pairs with commas"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in this process logs already.
    #[error("logging was set up twice: {0}")]
    Twice(String),
}

/// Logs from here on as `args` say.
pub fn init(args: &LogArgs) -> Result<(), Error> {
    let filter = parse(&args.filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match args.format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    installed.map_err(|error| Error::Twice(error.to_string()))
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter).map_err(|error| Error::Filter { filter: filter.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse("warn,firebreak_operator=debug").is_ok());
        let error = parse("firebreak=loud").unwrap_err().to_string();
        assert!(error.starts_with("--log: `firebreak=loud` is not a filter"), "{error}");
    }
}
