//! Redirection: the rules that bring a pod's connections to the proxy, and the proof that they do.
//!
//! The init step loads one nftables table of its own, for IPv4 and IPv6, in one transaction: either all rules are in
//! force or none, and loading them again replaces them. nftables is asked through its own tool, fed on standard input;
//! the text is made by a pure function ([`rules`]).
//!
//! Rules that load are not yet rules that work: a kernel without the modules, or a CNI that translates addresses at the
//! socket, would leave an application that connects past its proxy in silence. So the step then makes a connection
//! itself and sees it arrive with its original destination ([`check`]); the same check runs alone, without any privilege,
//! as `validate`. A pod whose redirection does not work does not start, and says why in its termination message.

pub mod check;
pub mod rules;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use clap::Args;
use firebreak_crds::redirect::{ADMIN_PORT, Cidr, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID, PortRange};
use tracing::{info, warn};

use self::check::{CheckError, Proof};

/// `init`: write the rules and prove them.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// Where connections from the pod go.
    #[command(flatten)]
    pub outbound: OutboundArgs,
    /// Port of the proxy's listener for connections that arrive at the pod.
    #[arg(long, default_value_t = INBOUND_PORT)]
    pub inbound_port: u16,
    /// Port of the proxy's admin listener, which is never redirected.
    #[arg(long, default_value_t = ADMIN_PORT)]
    pub admin_port: u16,
    /// User whose own connections are not redirected.
    #[arg(long, default_value_t = PROXY_UID)]
    pub proxy_uid: u32,
    /// Ports, or ranges such as 9000-9100, whose incoming connections go straight to the application.
    #[arg(long, value_delimiter = ',')]
    pub skip_inbound_ports: Vec<PortRange>,
    /// The nft program.
    #[arg(long, default_value = "nft")]
    pub nft: PathBuf,
}

/// `validate`: prove, without any privilege, that outbound connections reach the proxy's port.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// Where connections from the pod go.
    #[command(flatten)]
    pub outbound: OutboundArgs,
}

/// What `init` writes and `validate` expects about connections that the pod makes.
#[derive(Clone, Debug, Args)]
pub struct OutboundArgs {
    /// Port of the proxy's listener for connections that the pod makes.
    #[arg(long, default_value_t = OUTBOUND_PORT)]
    pub outbound_port: u16,
    /// Ports, or ranges such as 9000-9100, whose outgoing connections go straight to their destination.
    #[arg(long, value_delimiter = ',')]
    pub skip_outbound_ports: Vec<PortRange>,
    /// Networks, such as 10.0.0.0/8, whose outgoing connections go straight to their destination.
    #[arg(long, value_delimiter = ',')]
    pub skip_outbound_cidrs: Vec<Cidr>,
}

/// Why redirection is not in force.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The tool is missing or may not run.
    #[error("cannot run {nft}: {source}. It is part of the image firebreak-proxy; elsewhere, install nftables")]
    Tool {
        /// What was tried.
        nft: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tool or the kernel refused the rules.
    #[error("nft refused the redirect rules: {stderr}. {advice}")]
    Rules {
        /// What the tool said.
        stderr: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The rules are loaded and do not work.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Loads the rules in one transaction and proves that they work.
///
/// Needs the capability `NET_ADMIN`. Running it again gives the same result.
pub fn run_init(args: &InitArgs) -> Result<(), RedirectError> {
    load(args)?;
    let proof = check::prove(&args.outbound)?;
    if proof == Proof::default() {
        warn!("redirect rules are loaded; without a default route they cannot be tried");
    } else {
        info!(ipv4 = proof.ipv4, ipv6 = proof.ipv6, "redirection is in force");
    }
    Ok(())
}

/// Proves that redirection works, for each address family that has a default route.
pub fn run_validate(args: &ValidateArgs) -> Result<(), RedirectError> {
    let proof = check::prove(&args.outbound)?;
    if proof == Proof::default() {
        return Err(CheckError::NoRoute.into());
    }
    info!(ipv4 = proof.ipv4, ipv6 = proof.ipv6, "redirection is in force");
    Ok(())
}

fn load(args: &InitArgs) -> Result<(), RedirectError> {
    let tool = |source| RedirectError::Tool { nft: args.nft.clone(), source };
    let mut nft = Command::new(&args.nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(tool)?;
    // A failed write means that nft has ended; what it has to say about that comes with its output.
    let written = nft.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules::text(args).as_bytes()));
    let output = nft.wait_with_output().map_err(tool)?;
    if output.status.success() {
        return written.map_err(tool);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    Err(RedirectError::Rules { advice: advice(&stderr), stderr })
}

/// What to do about an error of nft.
fn advice(stderr: &str) -> &'static str {
    if stderr.contains("Operation not permitted") || stderr.contains("must be root") {
        "The init container needs the capability NET_ADMIN: the namespace must allow it (Pod Security level privileged)"
    } else if stderr.contains("No such file") || stderr.contains("not supported") {
        "The node's kernel lacks NAT for nftables: load the modules nf_tables, nft_chain_nat and nft_redir there"
    } else {
        "Please report this with the text above"
    }
}

#[cfg(test)]
mod tests;
