//! Whether what is named exists, and whether proxies can recognise it.

use firebreak_crds::resources::condition;

use super::{conditions::Verdict, reason};
use crate::{
    attach::{Attaches, Target},
    index::{Key, Service, World},
};

/// The condition `ResolvedRefs`: the first target that does not resolve gives the reason, the message names all.
pub(super) fn resolved<T: Attaches>(world: &World, object: &T) -> Verdict {
    let broken: Vec<_> = object.targets().filter_map(|target| unresolved(world, object, &target)).collect();
    match broken.first() {
        None => Verdict::yes(condition::RESOLVED_REFS, reason::RESOLVED, "every target exists"),
        Some((reason, _)) => {
            let messages: Vec<_> = broken.iter().map(|(_, message)| message.as_str()).collect();
            Verdict::no(condition::RESOLVED_REFS, reason, messages.join("; "))
        }
    }
}

/// Whether at least one port can be recognised.
pub(super) fn any_port<T: Attaches>(world: &World, object: &T) -> bool {
    object.targets().any(|target| {
        let services = world.services.within(target.namespace).filter(|service| target.names(&service.key));
        let recognised = |service: &&Service| object.at_callee() || !service.addresses.is_empty();
        let served = |service: &&Service| !object.at_callee() || service.has_pods();
        services.filter(recognised).filter(served).any(|service| target.ports(service).next().is_some())
    })
}

fn unresolved<T: Attaches>(world: &World, object: &T, target: &Target<'_>) -> Option<(&'static str, String)> {
    // A Namespace target stands for whatever Services there are, even none.
    let key = Key::new(target.namespace, target.service?);
    let Some(service) = world.services.get(&key) else {
        return Some((reason::TARGET_NOT_FOUND, format!("Service {key} does not exist")));
    };
    if service.external_name {
        let message =
            format!("Service {key} is an ExternalName, which callers reach at addresses that nobody here knows");
        return Some((reason::EXTERNAL_NAME, message));
    }
    if let Some(name) = target.port
        && service.port_named(name).is_none()
    {
        let names: Vec<_> = service.ports.iter().filter_map(|port| port.name.as_deref()).collect();
        let names = if names.is_empty() { "it names none".into() } else { format!("it has {}", names.join(", ")) };
        return Some((reason::PORT_NOT_FOUND, format!("Service {key} has no TCP port named {name}: {names}")));
    }
    if object.has_inbound()
        && let Some(problem) = unknown_pods(world, service, target)
    {
        return Some(problem);
    }
    (service.addresses.is_empty() && !object.at_callee()).then(|| {
        let message = format!(
            "Service {key} is headless: callers connect to its pods' addresses, which need endpoints in the config"
        );
        (reason::NEEDS_ENDPOINTS, message)
    })
}

/// Why the proxies beside the pods of `service` do not know that something is enforced there.
fn unknown_pods(world: &World, service: &Service, target: &Target<'_>) -> Option<(&'static str, String)> {
    let key = &service.key;
    if !service.has_pods() {
        let message = format!("Service {key} has no selector: which pods' proxies would act is not known");
        return Some((reason::NO_SELECTOR, message));
    }
    let unknown = target.ports(service).find(|port| world.targets(service, port).is_empty())?;
    let name = unknown.target.name()?;
    let message = format!(
        "port {} of Service {key} leads to the port named {name} of its pods, and none with the proxy has one of that name",
        unknown.port
    );
    Some((reason::TARGET_PORT_UNKNOWN, message))
}
