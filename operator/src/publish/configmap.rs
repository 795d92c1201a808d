//! The `ConfigMap` of a namespace: the durable copy of its config, which new pods start with whoever else is down.

use firebreak_crds::{
    marks::{CONFIG_KEY, CONFIG_MAP},
    wire::revision,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::json;

use super::{Effect, Error, limited};
use crate::{
    FIELD_MANAGER, MANAGED_BY, MANAGER,
    index::{Filed, Key},
};

/// Most bytes of a config that are written. A `ConfigMap` holds 1 MiB with its names and its own framing; what is larger
/// would be refused by the API server with a message that helps nobody.
pub(crate) const LIMIT: usize = 1_000_000;

/// What is remembered of a `ConfigMap`: enough to know whether to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    key: Key,
    version: String,
    /// Revision of the config in it.
    pub(crate) revision: String,
    /// Whether break-glass was on in it.
    pub(crate) transparent: bool,
    /// Whether it is marked as ours: nobody else's is deleted.
    pub(crate) ours: bool,
    /// When we last changed it, if the API server says so.
    pub(crate) written: Option<Timestamp>,
}

impl From<ConfigMap> for Held {
    fn from(map: ConfigMap) -> Self {
        #[derive(Default, Deserialize)]
        struct Head {
            #[serde(default)]
            transparent: bool,
        }
        let config = map.data.as_ref().and_then(|data| data.get(CONFIG_KEY)).map_or("", String::as_str);
        let labels = map.metadata.labels.as_ref();
        let managers = map.metadata.managed_fields.iter().flatten();
        let ours = managers.filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
        Self {
            key: Key::of(&map.metadata),
            version: map.metadata.resource_version.unwrap_or_default(),
            revision: revision(config.as_bytes()),
            transparent: serde_json::from_str::<Head>(config).unwrap_or_default().transparent,
            ours: labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER),
            written: ours.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max(),
        }
    }
}

impl Held {
    /// Which version of the object it is.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

impl Filed for Held {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// The key of the `ConfigMap` of `namespace`.
pub(crate) fn key(namespace: &str) -> Key {
    Key::new(namespace, CONFIG_MAP)
}

/// Makes the `ConfigMap` of `namespace` hold `document`, which as far as is known is of the version `before`. It may be kept as it
/// was by whoever else has a say in the cluster.
pub(crate) async fn apply(client: Client, namespace: &str, document: &str, before: &str) -> Result<Effect, Error> {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "labels": {MANAGED_BY: MANAGER}},
        "data": {CONFIG_KEY: document},
    });
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = limited(api.patch(CONFIG_MAP, &params, &Patch::Apply(&map))).await?;
    Ok(Effect::of(before, written.resource_version().as_deref()))
}

/// Deletes the `ConfigMap` of `namespace`.
pub(crate) async fn delete(client: Client, namespace: &str) -> Result<Effect, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    limited(api.delete(CONFIG_MAP, &DeleteParams::default())).await?;
    Ok(Effect::Changed)
}
