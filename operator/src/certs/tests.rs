//! The keeper against an API server in memory: what it writes, in which order, and that the API server trusts what the
//! injector shows at every moment, wherever a keeper may have ended.

use std::sync::Arc;

use clap::Parser;
use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::ToSpan;
use kube::client::Body;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    sync::{Mutex, watch},
    time::advance,
};
use tower::service_fn;

use super::*;
use crate::args::Args;

const NAMESPACE: &str = "firebreak-system";
const AUTHORITY: &str = "/api/v1/namespaces/firebreak-system/secrets/firebreak-ca";
const LEAF: &str = "/api/v1/namespaces/firebreak-system/secrets/firebreak-injector-tls";
const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/firebreak-injector";
const NAME: &str = "firebreak-injector.firebreak-system.svc";

/// The objects that are there, by path.
#[derive(Clone, Debug, Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    /// The path of each write, when it was, and whether what the injector showed was trusted after it.
    writes: Vec<(String, Instant, bool)>,
    /// Writes that are taken before the API server fails.
    left: usize,
    version: u64,
}

type Server = Arc<Mutex<Objects>>;

impl Objects {
    fn secret(&self, path: &str) -> Option<Secret> {
        self.by_path.get(path).map(|object| serde_json::from_value(object.clone()).unwrap())
    }

    fn webhook(&self) -> Option<MutatingWebhookConfiguration> {
        self.by_path.get(WEBHOOK).map(|object| serde_json::from_value(object.clone()).unwrap())
    }

    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.by_path.insert(path.into(), object.clone());
        object
    }

    /// Server-side apply by the only writer there is; of a webhook it sets what is given of each entry.
    fn apply(&mut self, path: &str, mut patch: Value) -> Result<Value, u16> {
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(ToOwned::to_owned);
        if self.left == 0 {
            return Err(500);
        }
        self.left -= 1;
        if version(&patch).is_some_and(|based_on| self.by_path.get(path).and_then(version) != Some(based_on)) {
            return Err(409);
        }
        if let Some(mut webhook) = self.by_path.get(path).filter(|_| path == WEBHOOK).cloned() {
            for (entry, new) in entries(&mut webhook).iter_mut().zip(entries(&mut patch).iter()) {
                assert_eq!(entry["name"], new["name"]);
                entry["clientConfig"]["caBundle"] = new["clientConfig"]["caBundle"].clone();
            }
            patch = webhook;
        }
        let object = self.put(path, patch);
        self.writes.push((path.into(), Instant::now(), self.secure()));
        Ok(object)
    }

    /// Whether the API server would talk to an injector with that Secret, by every entry of the webhook.
    fn secure(&self) -> bool {
        let Some(leaf) = self.secret(LEAF).map(Leaf::read).filter(|leaf| !leaf.pem.is_empty()) else { return false };
        let bundles = self.webhook().map(bundles).unwrap_or_default();
        !bundles.is_empty() && bundles.values().all(|bundle| bundle.as_ref().is_some_and(|it| verifies(it, &leaf.pem)))
    }
}

fn entries(webhook: &mut Value) -> &mut Vec<Value> {
    webhook["webhooks"].as_array_mut().unwrap()
}

fn verifies(bundle: &[u8], leaf: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).map(Result::unwrap));
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), default_provider().into());
    let (leaf, name) = (CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap(), ServerName::try_from(NAME).unwrap());
    verifier.build().is_ok_and(|it| it.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).is_ok())
}

fn args() -> CertArgs {
    Args::parse_from(["firebreak-operator", "--namespace", NAMESPACE, "--identity", "a"]).certs
}

fn lives() -> Lives {
    keeper(&Server::default(), &watch::Sender::new(true)).lives
}

fn keeper(server: &Server, held: &watch::Sender<bool>) -> Keeper {
    let server = server.clone();
    let service = service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let (head, body) = request.into_parts();
            let patch = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            let (code, answer) = match server.lock().await.apply(head.uri.path(), patch) {
                Ok(object) => (200, object),
                Err(code) => (code, json!({"kind": "Status", "status": "Failure", "code": code})),
            };
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, tower::BoxError>(Response::builder().status(code).body(answer)?)
        }
    });
    let held = Held::told(held.subscribe());
    Keeper::new(&Client::new(service, "default"), NAMESPACE, &args(), held, watch::channel(false).0, Metrics::default())
}

/// The watches show the keeper all that is there.
async fn show(keeper: &mut Keeper, server: &Server) {
    let objects = server.lock().await;
    keeper.authority = Some(objects.secret(AUTHORITY).map(Seen::of).unwrap_or_default());
    keeper.leaf = Some(objects.secret(LEAF).map(Seen::of).unwrap_or_default());
    keeper.entries = Some(objects.webhook().map(bundles).unwrap_or_default());
}

/// Lets a keeper work until it has nothing to do, or its `most` writes are used up.
async fn keep(server: &Server, most: usize) -> Result<(), Error> {
    let held = watch::Sender::new(true);
    let mut keeper = keeper(server, &held);
    server.lock().await.left = most;
    for _ in 0..10 {
        let before = server.lock().await.version;
        show(&mut keeper, server).await;
        keeper.turn().await?;
        if server.lock().await.version == before {
            return Ok(());
        }
        advance(RETRY).await;
    }
    panic!("the keeper finds no end: {:?}", server.lock().await.writes);
}

fn secret<T: Kept>(what: &T) -> Value {
    json!({"metadata": {}, "type": T::TYPE, "data": what.data()})
}

/// The Secrets of `material`, where the API server trusts `bundle`.
fn cluster(material: &Material, bundle: &str) -> Objects {
    let bundle = Some(bundle).filter(|it| !it.is_empty()).map(|it| ByteString(it.as_bytes().to_vec()));
    let entry = |name| json!({"name": name, "clientConfig": {"caBundle": bundle}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    let mut objects = Objects::default();
    objects.put(WEBHOOK, json!({"metadata": {}, "webhooks": [entry("namespace"), entry("pod")]}));
    if material.authority != Authority::default() {
        objects.put(AUTHORITY, secret(&material.authority));
    }
    if material.leaf != Leaf::default() {
        objects.put(LEAF, secret(&material.leaf));
    }
    objects
}

/// In order since `days` days.
fn aged(days: i64) -> Material {
    let then = Timestamp::now() - (days * 24).hours();
    issue::make(Action::RenewAll, then, &Material::default(), "", &lives()).unwrap()
}

/// As the version before kept it: everything in the injector's Secret.
fn one_secret(material: &Material) -> Objects {
    let mut objects =
        cluster(&Material { authority: Authority::default(), ..material.clone() }, &material.authority.bundle);
    let mut all = secret(&material.leaf);
    for (key, value) in material.authority.data() {
        all["data"][key] = json!(value);
    }
    objects.put(LEAF, all);
    objects
}

fn paths(objects: &Objects) -> Vec<&str> {
    objects.writes.iter().map(|(path, ..)| path.as_str()).collect()
}

fn keys(objects: &Objects, path: &str) -> Vec<String> {
    objects.secret(path).unwrap().data.unwrap().into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn each_secret_gets_what_its_reader_needs_and_trust_comes_before_the_certificate() {
    let server = Server::new(cluster(&Material::default(), "").into());
    keep(&server, 9).await.unwrap();
    let objects = server.lock().await;
    assert_eq!(paths(&objects), [AUTHORITY, WEBHOOK, LEAF]);
    assert_eq!(keys(&objects, AUTHORITY), ["ca.crt", "ca.key"]);
    assert_eq!(keys(&objects, LEAF), ["tls.crt", "tls.key"]);
    assert!(objects.secure());
    assert_eq!(objects.writes[2].1, objects.writes[1].1, "nothing was shown, so nothing is waited for");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_the_injector_could_read_is_replaced_and_its_key_is_gone() {
    let old = aged(30);
    let server = Server::new(one_secret(&old).into());
    keep(&server, 9).await.unwrap();
    let objects = server.lock().await;
    assert_eq!(paths(&objects), [AUTHORITY, WEBHOOK, LEAF]);
    assert_eq!(keys(&objects, LEAF), ["tls.crt", "tls.key"]);
    let authority = objects.secret(AUTHORITY).map(Authority::read).unwrap();
    assert!(objects.writes[2].1 >= objects.writes[1].1 + RETRY, "API servers have time to learn the new authority");
    assert_ne!(authority.key, old.authority.key);
    assert!(authority.bundle.ends_with(&old.authority.bundle), "injectors that show the old certificate are trusted");
}

/// Wherever a keeper ends, the next one brings everything in order, and the API server can talk to the injector throughout.
#[tokio::test(start_paused = true)]
async fn no_step_is_an_outage_wherever_a_keeper_ends() {
    let (good, other) = (aged(30), aged(31));
    let bundle = good.authority.bundle.as_str();
    let with = |authority: &Authority, leaf: &Leaf| Material { authority: authority.clone(), leaf: leaf.clone() };
    let old = aged(70);
    let cases = [
        ("one Secret for all", one_secret(&good)),
        ("the certificate is due", cluster(&old, &old.authority.bundle)),
        ("the authority is lost", cluster(&with(&Authority::default(), &good.leaf), bundle)),
        ("the authority is another", cluster(&with(&other.authority, &good.leaf), bundle)),
        ("the authority is another and broken", {
            let broken = Authority { key: good.authority.key.clone(), ..other.authority.clone() };
            cluster(&with(&broken, &good.leaf), bundle)
        }),
        ("the authority is due", {
            let authority = aged(250);
            let leaf =
                issue::make(Action::RenewLeaf, Timestamp::now() - 240.hours(), &authority, "", &lives()).unwrap();
            cluster(&leaf, &leaf.authority.bundle)
        }),
    ];
    for (case, objects) in cases {
        for most in 0..4 {
            let server = Server::new(objects.clone().into());
            assert!(server.lock().await.secure(), "{case} begins with an outage");
            // The first keeper ends here, in order or not.
            let _ = keep(&server, most).await;
            keep(&server, 9).await.unwrap();
            let objects = server.lock().await;
            assert!(objects.writes.iter().all(|(.., secure)| *secure), "{case}, {most} writes: {:?}", objects.writes);
            assert_eq!(keys(&objects, LEAF), ["tls.crt", "tls.key"], "{case}, {most} writes");
            let leaf = objects.secret(LEAF).map(Leaf::read).unwrap();
            let authority = objects.secret(AUTHORITY).map(Authority::read).unwrap();
            let found = Material { authority, leaf };
            assert_eq!(plan(Timestamp::now(), &found, &lives()).action, Action::Keep, "{case}, {most} writes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_without_the_lease_or_over_what_was_not_seen() {
    let server = Server::new(cluster(&Material::default(), "").into());
    server.lock().await.left = 9;
    let held = watch::Sender::new(false);
    let mut follower = keeper(&server, &held);
    follower.turn().await.unwrap();
    show(&mut follower, &server).await;
    follower.turn().await.unwrap();
    assert_eq!(paths(&*server.lock().await), [] as [&str; 0]);

    let old = aged(70);
    *server.lock().await = Objects { left: 9, ..cluster(&old, &old.authority.bundle) };
    held.send_replace(true);
    show(&mut follower, &server).await;
    server.lock().await.put(LEAF, secret(&aged(1).leaf));
    let error = follower.turn().await.unwrap_err();
    assert!(matches!(&error, Error::Write { error, .. } if error.overtaken()), "{error}");

    show(&mut follower, &server).await;
    follower.rest = Instant::now();
    let busy = server.lock().await;
    let (error, _) = tokio::join!(follower.turn(), async { held.send_replace(false) });
    assert!(matches!(error, Err(Error::Lost { .. })), "an answer is not waited for: {error:?}");
    drop(busy);
}

#[tokio::test]
async fn the_api_server_trusts_nobody_until_every_entry_has_a_bundle() {
    let (held, _) = watch::channel(false);
    let (mut keeper, (trust, trusts)) = (keeper(&Server::default(), &held), watch::channel(false));
    keeper.trusts = trust;
    let bundle = || Some(b"authority".to_vec());
    for (entries, expected) in [
        (vec![], false),
        (vec![("a", None)], false),
        (vec![("a", bundle()), ("b", None)], false),
        (vec![("a", bundle()), ("b", Some(Vec::new()))], false),
        (vec![("a", bundle()), ("b", bundle())], true),
    ] {
        keeper.know(entries.into_iter().map(|(name, bundle)| (name.to_owned(), bundle)).collect());
        assert_eq!(*trusts.borrow(), expected);
    }
}
