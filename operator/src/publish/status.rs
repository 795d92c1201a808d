//! The status of an object of ours.

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde::Serialize;
use serde_json::json;

use super::{Effect, Error, limited};
use crate::{FIELD_MANAGER, index::Meta};

/// Writes `status` on the object of kind `K` that `meta` is about. What was there already changes nothing: a status holds more
/// than ours where others have conditions of their own in it.
///
/// Only if that is still the version and the life of the object that was judged: a fault whose start two replicas wrote, or
/// that a namesake inherited, would have two ends. The objects may not parse as `K`, so the answer is not read as one.
pub(crate) async fn apply<K>(client: Client, meta: &Meta, status: &impl Serialize) -> Result<Effect, Error>
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
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = limited(api.patch_status(&meta.key.name, &params, &Patch::Apply(&object))).await?;
    Ok(Effect::of(&meta.resource_version, written.resource_version().as_deref()))
}
