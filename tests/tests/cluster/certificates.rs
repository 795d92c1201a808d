//! The injector's certificate is renewed and the authority behind it replaced again and again, and no pod is refused for it.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use firebreak_tests::cluster::{install, kubectl};
use tokio::time::Instant;

/// Lives of seconds, in which everything happens that takes months with those that operators have by default.
const SHORT: [&str; 2] = ["FIREBREAK_LEAF_LIFE=24s", "FIREBREAK_CA_LIFE=60s"];
const DEFAULT: [&str; 2] = ["FIREBREAK_LEAF_LIFE-", "FIREBREAK_CA_LIFE-"];

/// Authorities to be seen: the one that there is, the first of a short life, and one that came when its time had come.
const AUTHORITIES: usize = 3;
/// Certificates to be seen: one of each authority at least, and some that one authority signed after another.
const LEAVES: usize = 6;
/// It takes a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Gives the operators such lives. What has been made keeps its own.
fn set_lives(lives: [&str; 2]) -> anyhow::Result<()> {
    let set = ["--namespace", install::NAMESPACE, "set", "env", "deployment/firebreak-operator"];
    kubectl([set.as_slice(), &lives].concat())?;
    install::rollout("firebreak-operator")
}

/// The first certificate that a Secret holds under `key`, as it stands there.
fn certificate(secret: &str, key: &str) -> anyhow::Result<String> {
    let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    let get = ["--namespace", install::NAMESPACE, "get", "secret", secret, "--ignore-not-found", "--output", &template];
    let pem = kubectl(get)?;
    Ok(pem.split("-----END").next().unwrap_or_default().to_owned())
}

/// Replaces the injectors one by one until `done`: the API server would keep its connection, and ask no certificate ever again.
fn renew_connections(done: &AtomicBool) -> anyhow::Result<()> {
    while !done.load(Relaxed) {
        kubectl(["--namespace", install::NAMESPACE, "rollout", "restart", "deployment/firebreak-injector"])?;
        install::rollout("firebreak-injector")?;
    }
    Ok(())
}

#[test]
fn no_pod_is_refused_while_certificates_and_authorities_come_and_go() -> anyhow::Result<()> {
    let shop = super::shop()?;
    install::set_installed(false); // until all is as it was
    set_lives(SHORT)?;
    let (mut authorities, mut leaves) = (BTreeSet::from([certificate("firebreak-ca", "ca.crt")?]), BTreeSet::new());
    // What there is would live for months.
    kubectl(["--namespace", install::NAMESPACE, "delete", "secret", "firebreak-ca"])?;

    let (done, start) = (AtomicBool::new(false), Instant::now());
    thread::scope(|scope| -> anyhow::Result<()> {
        let renewing = scope.spawn(|| renew_connections(&done));
        let mut ask = || -> anyhow::Result<()> {
            while (authorities.len() < AUTHORITIES || leaves.len() < LEAVES) && !renewing.is_finished() {
                ensure!(start.elapsed() < PATIENCE, "{} authorities, {} certificates", authorities.len(), leaves.len());
                let pod = super::upgrade::admitted(&shop)
                    .with_context(|| format!("after {} authorities", authorities.len()))?;
                ensure!(super::install::has_proxy(&pod), "a pod came in without the proxy: {pod}");
                authorities.extend(Some(certificate("firebreak-ca", "ca.crt")?).filter(|found| !found.is_empty()));
                leaves.insert(certificate("firebreak-injector-tls", "tls.crt")?);
            }
            Ok(())
        };
        let asked = ask();
        done.store(true, Relaxed);
        renewing.join().map_err(|_| anyhow::anyhow!("the thread that restarts injectors ended"))??;
        asked
    })?;
    set_lives(DEFAULT)?;
    install::set_installed(true);
    Ok(())
}
