//! Which loopback port stands for which Service port, and which before which endpoint.
//!
//! For callers the Service's own number, where that is possible: not below 1024, which needs rights, and not taken by somebody else. A
//! port once given stays, however often the folder is read again, because callers have it in their settings.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use firebreak_operator::Key;

/// What a loopback port is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// For callers of a port of a Service.
    Service(Key, u16),
    /// For what goes to this endpoint, as though the proxy stood beside it.
    Beside(SocketAddr),
}

/// The ports given so far.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<Use, Given>);

/// A port that was given, and for what wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) address: SocketAddr,
    /// Why it is not the port that was wished for.
    pub(crate) moved: Option<Moved>,
    chosen: Option<u16>,
}

/// Why a Service port is served elsewhere than at its own number, or at the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The number is below 1024.
    Privileged,
    /// This port cannot be listened on.
    Taken(u16),
}

/// The first port that needs no rights.
const UNPRIVILEGED: u16 = 1024;

impl Ports {
    /// Gives a port to each of `wanted`, which holds what the user chose, if anything. What is not wanted any more is given
    /// up.
    pub(crate) fn give(&mut self, wanted: BTreeMap<Use, Option<u16>>) -> std::io::Result<&BTreeMap<Use, Given>> {
        self.0.retain(|port, given| wanted.get(port) == Some(&given.chosen));
        // Held until all have theirs, so that none is given twice.
        let mut held = Vec::new();
        for (port, chosen) in wanted {
            if !self.0.contains_key(&port) {
                let given = self.find(&port, chosen, &mut held)?;
                self.0.insert(port, given);
            }
        }
        Ok(&self.0)
    }

    fn find(&self, port: &Use, chosen: Option<u16>, held: &mut Vec<TcpListener>) -> std::io::Result<Given> {
        let (own, moved) = match port {
            Use::Service(_, port) if *port < UNPRIVILEGED => (None, Some(Moved::Privileged)),
            Use::Service(_, port) => (Some(*port), None),
            // Nobody has it in settings.
            Use::Beside(_) => (None, None),
        };
        let wish = chosen.or(own);
        let moved = wish.map(Moved::Taken).or(moved);
        let given = |listener: TcpListener, moved, held: &mut Vec<TcpListener>| {
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(Given { address, moved, chosen })
        };
        let free = |wish: &u16| self.0.values().all(|given| given.address.port() != *wish);
        match wish.filter(free).map(loopback) {
            Some(Ok(listener)) => given(listener, None, held),
            Some(Err(_)) | None => given(loopback(0)?, moved, held),
        }
    }
}

impl Moved {
    /// As part of a sentence.
    pub(crate) fn because(self) -> String {
        match self {
            Self::Privileged => "ports below 1024 need rights".to_owned(),
            Self::Taken(port) => format!("port {port} is taken"),
        }
    }
}

fn loopback(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Reads the annotation `firebreak.dev/local-ports`: `80=18080,9000=19000`.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<u16, u16>, String> {
    let pair = |pair: &str| {
        let (service, local) = pair.trim().split_once('=')?;
        let local: u16 = local.trim().parse().ok().filter(|port| *port > 0)?;
        Some((service.trim().parse().ok()?, local))
    };
    let pairs = text.split(',').filter(|part| !part.trim().is_empty());
    pairs.map(|part| pair(part).ok_or_else(|| bad(part))).collect()
}

fn bad(part: &str) -> String {
    format!("`{}` is not a pair of ports: write SERVICEPORT=LOCALPORT, such as 80=18080,9000=19000", part.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(ports: &[(u16, Option<u16>)]) -> BTreeMap<Use, Option<u16>> {
        ports
            .iter()
            .map(|(port, chosen)| (Use::Service(Key::new("shop", format!("s{port}")), *port), *chosen))
            .collect()
    }

    /// A port that is free now, and the listener that makes it taken.
    fn taken() -> (u16, TcpListener) {
        let listener = loopback(0).unwrap();
        (listener.local_addr().unwrap().port(), listener)
    }

    #[test]
    fn a_free_port_is_the_services_own() {
        let (port, listener) = taken();
        drop(listener);
        let mut ports = Ports::default();
        let given = ports.give(wanted(&[(port, None)])).unwrap().values().next().unwrap();
        assert_eq!((given.address.port(), given.moved), (port, None));
    }

    #[test]
    fn taken_and_privileged_ports_move_and_stay() {
        let (port, _listener) = taken();
        let mut ports = Ports::default();
        let first = ports.give(wanted(&[(80, None), (port, None)])).unwrap().clone();
        let moved: Vec<_> = first.values().map(|given| given.moved).collect();
        assert!(moved.contains(&Some(Moved::Privileged)) && moved.contains(&Some(Moved::Taken(port))), "{moved:?}");
        assert_eq!(ports.give(wanted(&[(80, None), (port, None), (81, None)])).unwrap().len(), 3);
        let again = ports.give(wanted(&[(80, None), (port, None)])).unwrap();
        assert_eq!(&first, again, "whatever else comes and goes");
    }

    #[test]
    fn a_chosen_port_is_given_and_a_new_choice_moves_it() {
        let ((one, first), (two, second)) = (taken(), taken());
        drop((first, second));
        let mut ports = Ports::default();
        let given = ports.give(wanted(&[(80, Some(one))])).unwrap().values().next().unwrap();
        assert_eq!((given.address.port(), given.moved), (one, None));
        let given = ports.give(wanted(&[(80, Some(two))])).unwrap().values().next().unwrap();
        assert_eq!((given.address.port(), given.moved), (two, None));
    }

    #[test]
    fn two_services_with_one_number_get_two_ports() {
        let (port, listener) = taken();
        drop(listener);
        let both = [("a", port), ("b", port)].map(|(name, port)| (Use::Service(Key::new("shop", name), port), None));
        let mut ports = Ports::default();
        let given: Vec<_> = ports.give(both.into()).unwrap().values().map(|given| given.moved).collect();
        assert_eq!(given, [None, Some(Moved::Taken(port))]);
    }

    #[test]
    fn what_goes_to_an_endpoint_gets_a_port_of_its_own_that_stays() {
        let endpoints = [1, 2].map(|port| (Use::Beside(([127, 0, 0, 1], port).into()), None));
        let mut ports = Ports::default();
        let first = ports.give(endpoints.clone().into()).unwrap().clone();
        let given: Vec<_> = first.values().map(|given| (given.address.port() > 2, given.moved)).collect();
        assert_eq!(given, [(true, None); 2]);
        assert_ne!(first[&endpoints[0].0].address, first[&endpoints[1].0].address);
        assert_eq!(ports.give(endpoints.into()).unwrap(), &first);
    }

    #[test]
    fn the_annotation_is_read_or_explained() {
        assert_eq!(parse(" 80=18080, 9000=19000,"), Ok([(80, 18080), (9000, 19000)].into()));
        for text in ["80", "80:18080", "80=0", "x=1", "80=99999"] {
            assert!(parse(text).unwrap_err().contains("write SERVICEPORT=LOCALPORT"), "{text}");
        }
    }
}
