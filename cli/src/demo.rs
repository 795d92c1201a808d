//! `firebreak demo`: what policies do, seen on the reader's own machine.
//!
//! Three services on loopback, the proxy between them, and the three examples of the 2018 talk, a breaker and a policy that is only
//! observed applied in turn, as the files in `examples/` say them. Nothing is staged: requests are real, fates are the proxy's own metrics, and every promise of a
//! policy is compared with what callers saw. A promise that does not hold is exit code 1; a part for
//! which there was no time is exit code 2.

mod breaker;
mod check;
mod clock;
mod closing;
mod load;
mod metrics;
mod observe;
mod parts;
mod services;
mod show;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use hyper::Uri;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::clock::{LEAST, MOST, PARTS, REQUEST};
use self::{
    clock::Clock,
    metrics::Metrics,
    parts::{Act, Outcome, Plot},
    services::Services,
    show::Show,
};
use crate::{
    COULD_NOT,
    args::DemoArgs,
    http,
    local::{
        engine::{Engine, NotApplied},
        stage::{Caller, NoScene, Scene},
    },
    manifest::{Manifests, Source},
    told,
};

/// How long the proxy waits at the end for requests under way. There are none, unless a part was cut.
const GRACE: Duration = Duration::from_millis(100);

/// The stage, while a part is played.
pub(crate) struct Demo {
    engine: Engine,
    services: Services,
    admin: SocketAddr,
    /// Where the proxy listens for callers of service2 and of service3.
    service2: Uri,
    service3: Uri,
    show: Show,
    clock: Clock,
}

/// Plays all parts, as far as there is time. Exit code 1 means that a promise was broken, 2 that parts are missing.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::start(args.length.get());
    let show = Show::new(args.json);
    let mut demo = Demo::set_up(show.clone(), clock).await?;
    show.line("web (this program) calls service2, and service2 calls service3, each through the proxy.");
    let outcomes = demo.play_all(&parts::ALL).await?;
    demo.engine.stop().await?;
    let unplayed = parts::ALL.get(outcomes.len()..).unwrap_or_default();
    told(show.finish(&outcomes, unplayed, args.length))?;
    Ok(match (unplayed, outcomes.iter().all(Outcome::holds)) {
        ([], true) => ExitCode::SUCCESS,
        ([], false) => ExitCode::FAILURE,
        _ => ExitCode::from(COULD_NOT),
    })
}

impl Demo {
    async fn set_up(show: Show, clock: Clock) -> anyhow::Result<Self> {
        let services = Services::start().await?;
        let caller = Caller { namespace: "default".into(), labels: [("app".into(), "web".into())].into() };
        let mut engine = Engine::start(caller, SocketAddr::from(([127, 0, 0, 1], 0)), GRACE)?;
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
        Ok(Self { engine, services, admin, service2, service3, show, clock })
    }

    /// What the parts came to that were over in time; a part that was not is not among them.
    async fn play_all(&mut self, plots: &[Plot]) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (index, plot) in plots.iter().enumerate() {
            if Instant::now() >= self.clock.last_call() {
                break;
            }
            self.show.begin(index + 1, plots.len(), plot);
            let Ok(outcome) = timeout_at(self.clock.curtain(), self.play(index, plot)).await else { break };
            let outcome = outcome?;
            self.show.end(&outcome);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn play(&mut self, index: usize, plot: &Plot) -> anyhow::Result<Outcome> {
        apply(&mut self.engine, &self.services, plot.files)?;
        let begun = Instant::now();
        let Act { sent, fates, tries, checks } = match index {
            0 => parts::failing(self).await?,
            1 => parts::hanging(self).await?,
            2 => parts::full(self).await?,
            3 => parts::faults(self).await?,
            4 => breaker::left_alone(self).await?,
            _ => observe::tried(self).await?,
        };
        Ok(Outcome {
            title: plot.title,
            files: plot.files.iter().map(|(name, _)| *name).collect(),
            sent,
            fates,
            tries,
            seconds: begun.elapsed().as_secs_f64(),
            checks,
            lesson: plot.lesson,
            explained: plot.explained,
        })
    }

    async fn scrape(&self) -> anyhow::Result<Metrics> {
        Ok(Metrics::scrape(self.admin).await?)
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
