//! Objects on their way into the world: with the caller's namespace where they name none, read into the operator's types.

use std::collections::BTreeMap;

use firebreak_crds::{API_VERSION, marks, resources::FaultSpecStatus};
use firebreak_operator::{
    Event, Key, Update, World,
    index::{Fault, Invalid, Policy},
};
use k8s_openapi::api::{core::v1, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::ports;
use crate::{
    lint::{Finding, Severity},
    manifest::{self, Document},
};

/// The world as it gathers, and the ports that users chose.
#[derive(Default)]
pub(super) struct Cast {
    pub(super) world: World,
    pub(super) chosen: BTreeMap<Key, BTreeMap<u16, u16>>,
}

/// What is wrong with a document.
pub(super) struct Wrong {
    field: String,
    message: String,
}

impl Cast {
    /// Takes in a document. Kinds that local mode has no use for are passed over.
    pub(super) fn add(&mut self, document: &Document, namespace: &str) -> Result<(), Wrong> {
        let (mut value, _) = manifest::without_nulls(&document.value);
        let kind = (document.text("/apiVersion"), document.text("/kind"));
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
            && kind != ("v1", "Namespace")
        {
            metadata.entry("namespace").or_insert_with(|| json!(namespace));
        }
        let event = match kind {
            ("v1", "Service") => {
                let service: v1::Service = typed(document, value)?;
                self.chosen.insert(Key::of(&service.metadata), chosen_ports(&service)?);
                Event::Service(Update::Apply(service.into()))
            }
            ("v1", "Namespace") => Event::Namespace(Update::Apply(typed::<v1::Namespace>(document, value)?.into())),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                Event::Slice(Update::Apply(typed::<discovery::EndpointSlice>(document, value)?.into()))
            }
            (API_VERSION, "TrafficPolicy") => {
                let policy = Policy::from_json(value).map_err(|error| Wrong::whole(&error))?;
                policy.spec.as_ref().map_err(Wrong::from)?;
                Event::Policy(Update::Apply(policy))
            }
            (API_VERSION, "FaultSpec") => {
                // What a cluster said about it is not about here.
                let fault = Fault {
                    status: FaultSpecStatus::default(),
                    ..Fault::from_json(value).map_err(|error| Wrong::whole(&error))?
                };
                fault.spec.as_ref().map_err(Wrong::from)?;
                Event::Fault(Update::Apply(fault))
            }
            _ => return Ok(()),
        };
        self.world.apply(event);
        Ok(())
    }
}

impl Wrong {
    /// With the object as a whole.
    fn whole(error: &impl ToString) -> Self {
        Self { field: String::new(), message: error.to_string() }
    }

    /// As a finding about `document`.
    pub(super) fn of(self, document: &Document) -> Finding {
        Finding::of(document, Severity::Error, &self.field, self.message)
    }
}

impl From<&Invalid> for Wrong {
    fn from(invalid: &Invalid) -> Self {
        Self { field: invalid.path.clone(), message: invalid.message.clone() }
    }
}

fn typed<T: DeserializeOwned>(document: &Document, value: Value) -> Result<T, Wrong> {
    if document.text("/metadata/name").is_empty() {
        return Err(Wrong { field: "metadata.name".into(), message: "is missing: every object needs a name".into() });
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Wrong { field: if field == "." { String::new() } else { field }, message: error.into_inner().to_string() }
    })
}

fn chosen_ports(service: &v1::Service) -> Result<BTreeMap<u16, u16>, Wrong> {
    let annotation = service.metadata.annotations.as_ref().and_then(|them| them.get(marks::LOCAL_PORTS));
    let parsed = annotation.map_or(Ok(BTreeMap::new()), |text| ports::parse(text));
    parsed.map_err(|message| Wrong { field: format!("metadata.annotations.{}", marks::LOCAL_PORTS), message })
}
