//! Firebreak on a real cluster: helm install, a label, a policy, and real requests between real pods.
//!
//! One file a promise. Tests run one after another (`--test-threads=1`), each in a namespace of its own that is gone when it
//! ends; the chart is installed by the first that needs it. What callers saw, what the service saw and what the proxy
//! counted are three accounts of the same requests, and the tests compare them.

mod breaker;
mod bulkhead;
mod certificates;
mod change;
mod faults;
mod inbound;
mod install;
mod ipv6;
mod modes;
mod observe;
mod outage;
mod permissions;
mod protocols;
mod replicas;
mod retries;
mod scope;
mod streams;
mod upgrade;
mod wrong;

use firebreak_tests::{
    cluster::{
        Namespace,
        app::{App, manifest},
        install as chart,
    },
    wait,
};

/// A namespace with a caller, `web`, and a service, `service2`, both with the proxy beside them.
fn shop() -> anyhow::Result<Namespace> {
    chart::firebreak()?;
    let shop = Namespace::enabled("shop")?;
    shop.apply(&["web", "service2"].map(manifest).join("---"))?;
    App::named(&shop, "web").ready()?;
    App::named(&shop, "service2").ready_for(&App::named(&shop, "web"))?;
    Ok(shop)
}

/// Waits until the proxy of `web` has taken up a policy or fault as it is now.
fn in_force(shop: &Namespace, object: &str) -> anyhow::Result<()> {
    shop.kubectl(&["wait", object, "--for=condition=Published", "--timeout=10s"])?;
    let metadata = shop.json(&["get", object])?["metadata"].clone();
    let name = format!("{}/{}", shop.name, metadata["name"].as_str().unwrap_or_default());
    let web = App::named(shop, "web");
    wait::until("the proxy has taken it up", || {
        let config = web.proxy_config()?["config"].take();
        let mut entries = config["entries"].as_array().into_iter().flatten();
        Ok(entries.any(|entry| entry["name"] == *name && entry["generation"] == metadata["generation"]))
    })
}
