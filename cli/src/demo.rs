//! `firebreak demo`: what policies do, seen on the reader's own machine.
//!
//! Three services on loopback, the proxy between them, and the three examples of the 2018 talk applied in turn, as the files
//! in `examples/` say them. Nothing is staged: requests are real, fates are the proxy's own metrics, and every promise of a
//! policy is compared with what callers saw. A promise that does not hold is exit code 1.

mod check;
mod load;
mod metrics;
mod parts;
mod services;
mod show;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use hyper::Uri;
use tokio::time::Instant;

use self::{
    metrics::Metrics,
    parts::{Outcome, Plot},
    services::Services,
    show::Show,
};
use crate::{
    args::DemoArgs,
    http,
    local::{
        engine::{Engine, NotApplied},
        stage::{Caller, NoScene, Scene},
    },
    manifest::{Manifests, Source},
};

/// What the last requests of the last part may need.
const RESERVE: Duration = Duration::from_secs(2);

/// The stage, while a part is played.
pub(crate) struct Demo {
    engine: Engine,
    services: Services,
    admin: SocketAddr,
    /// Where the proxy listens for callers of service2 and of service3.
    service2: Uri,
    service3: Uri,
    show: Show,
    begun: Instant,
    length: Duration,
}

/// Plays all parts. Exit code 1 means that a promise was broken.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let show = Show::new(args.json);
    let mut demo = Demo::set_up(show.clone(), args.length.get()).await?;
    show.line("web (this program) calls service2, and service2 calls service3, each through the proxy.");
    let mut outcomes = Vec::new();
    let plots = [parts::FAILING, parts::HANGING, parts::FULL, parts::FAULTS];
    for (index, plot) in plots.iter().enumerate() {
        show.begin(index + 1, plots.len(), plot);
        let outcome = demo.play(index, plot).await?;
        show.end(&outcome);
        outcomes.push(outcome);
    }
    demo.engine.stop().await?;
    show.finish(&outcomes)?;
    Ok(if outcomes.iter().all(Outcome::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Demo {
    async fn set_up(show: Show, length: Duration) -> anyhow::Result<Self> {
        let services = Services::start().await?;
        let caller = Caller { namespace: "default".into(), labels: [("app".into(), "web".into())].into() };
        let mut engine = Engine::start(caller, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let scene = apply(&mut engine, &services, &[])?;
        let admin = engine.admin().context("the proxy has no admin port")?;
        let at = |name: &str| {
            let listener = scene.listeners.iter().find(|listener| listener.service.name == name);
            listener
                .map(|listener| http::url(listener.given.address, "/"))
                .with_context(|| format!("{name} is not served"))
        };
        let (service2, service3) = (at("service2")?, at("service3")?);
        services.mood.introduce(service3.clone());
        Ok(Self { engine, services, admin, service2, service3, show, begun: Instant::now(), length })
    }

    async fn play(&mut self, index: usize, plot: &Plot) -> anyhow::Result<Outcome> {
        apply(&mut self.engine, &self.services, plot.files)?;
        let begun = Instant::now();
        let before = self.scrape().await?;
        let checks = match index {
            0 => parts::failing(self).await?,
            1 => parts::hanging(self).await?,
            2 => parts::full(self).await?,
            _ => parts::faults(self).await?,
        };
        let (fates, tries) = parts::counted(&self.scrape().await?.since(&before));
        Ok(Outcome {
            title: plot.title,
            files: plot.files.iter().map(|(name, _)| *name).collect(),
            sent: fates.values().sum(),
            fates,
            tries,
            seconds: begun.elapsed().as_secs_f64(),
            checks,
            lesson: plot.lesson,
        })
    }

    async fn scrape(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics::scrape(self.admin).await?)
    }

    /// When no more requests are begun. On a machine that was slow until here the last part still gets its second.
    fn last_call(&self) -> Instant {
        (self.begun + self.length.saturating_sub(RESERVE)).max(Instant::now() + Duration::from_secs(1))
    }

    /// For a part whose requests are counted, not timed.
    fn far(&self) -> Instant {
        self.begun + self.length
    }
}

/// Puts the services and `files` in force.
fn apply(engine: &mut Engine, services: &Services, files: &[(&str, &str)]) -> anyhow::Result<Scene> {
    let own =
        [("service2", services.service2), ("service3", services.service3)].map(|(name, at)| service(name, at)).concat();
    let own = Source { name: "demo/services.yaml".into(), text: own };
    let files = files.iter().map(|(name, text)| Source { name: (*name).into(), text: (*text).into() });
    match engine.apply(&Manifests::parse(&files.chain([own]).collect::<Vec<_>>())) {
        Ok(applied) => {
            let deaf = applied.deaf.iter().filter_map(|listener| listener.error.as_deref());
            match applied.report.refused.as_deref().into_iter().chain(deaf).next() {
                None => Ok(applied.scene),
                Some(error) => anyhow::bail!("the proxy refused the config: {error}"),
            }
        }
        Err(NotApplied::Scene(NoScene::Findings(findings))) => {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow::bail!("{}", lines.join("\n"))
        }
        Err(other) => Err(other.into()),
    }
}

fn service(name: &str, at: SocketAddr) -> String {
    let (address, port) = (at.ip(), at.port());
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-demo, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [\"{address}\"]}}]
"
    )
}
