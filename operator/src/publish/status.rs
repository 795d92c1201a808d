//! The status of an object of ours.

use std::fmt::Debug;

use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde::Serialize;
use serde_json::json;

use super::{Error, limited};
use crate::{FIELD_MANAGER, index::Meta};

/// Writes `status` on the object of kind `K` that `meta` is about.
///
/// Only if that is still the version and the life of the object that was judged: a fault whose start two replicas wrote, or
/// that a namesake inherited, would have two ends. The objects may not parse as `K`, so the answer is not read as one.
pub(crate) async fn apply<K>(client: Client, meta: &Meta, status: &impl Serialize) -> Result<(), Error>
where
    K: Resource<DynamicType = ()>,
{
    let resource = ApiResource::erase::<K>(&());
    let object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": meta.key.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "status": status,
    });
    let api: Api<DynamicObject> = Api::namespaced_with(client, &meta.key.namespace, &resource);
    patched(api.patch_status(&meta.key.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object))).await
}

async fn patched<T: Debug>(patch: impl Future<Output = Result<T, kube::Error>>) -> Result<(), Error> {
    limited(patch).await.map(drop)
}
