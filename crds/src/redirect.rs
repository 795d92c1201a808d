//! The words of redirection, which injector and proxy share: the proxy's ports and user, and what users may exempt.
//!
//! The injector reads ports and CIDRs from a pod's annotations and refuses the pod where they make no sense; the
//! proxy's init step turns the same values into rules. One parser for both means that what was admitted also loads.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Where the proxy accepts connections that the pod's containers make.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy accepts connections that arrive at the pod.
pub const INBOUND_PORT: u16 = 15006;
/// Where the proxy serves readiness, metrics and translated probes. Never redirected.
pub const ADMIN_PORT: u16 = 15020;
/// The proxy's own user and group. What this user sends is not redirected, so no other container may run as it.
pub const PROXY_UID: u32 = 2119;

/// One port or an inclusive range of ports, as users write them: `3306` or `9000-9100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A network in CIDR notation without host bits: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a port or range was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a port: write a number from 1 to 65535, or a range such as 9000-9100")]
pub struct PortRangeError(String);

/// Why a network was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    /// The text is neither an address nor a network.
    #[error("{0:?} is not a network: write an address with its prefix length, such as 10.0.0.0/8 or fd00::/8")]
    Malformed(String),
    /// Bits are set to the right of the prefix: a typing error more often than not.
    #[error("{0:?} has bits set after its prefix: write {1}")]
    HostBits(String, Cidr),
}

impl PortRange {
    /// A single port.
    pub fn port(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether `port` is one of the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(PortRangeError(text.to_owned())),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Cidr {
    /// Whether the network is one of IPv4 addresses.
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` is one of the network's.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self { address, ..self }.masked() == self
    }

    /// The same network with the bits after its prefix cleared.
    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, ..self }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.trim().split_once('/').map_or((text.trim(), None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(widest), |p| p.parse().map_err(|_| malformed()))?;
        if prefix > widest {
            return Err(malformed());
        }
        let cidr = Self { address, prefix };
        let masked = cidr.masked();
        if masked == cidr { Ok(cidr) } else { Err(CidrError::HostBits(text.to_owned(), masked)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_read_as_they_are_written() {
        for text in ["1", "3306", "65535", "9000-9100"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert!("9000-9100".parse::<PortRange>().unwrap().contains(9100));
        assert!(!PortRange::port(80).contains(81));
    }

    #[test]
    fn what_is_no_port_is_refused_with_what_would_be_right() {
        for text in ["", "0", "65536", "-1", "http", "90-80", "1-", "1-2-3"] {
            let error = text.parse::<PortRange>().unwrap_err();
            assert!(error.to_string().contains("1 to 65535"), "{text}: {error}");
        }
    }

    #[test]
    fn networks_of_both_families_read_as_they_are_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00::/8", "::/0", "::1/128"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
        assert!(!"fd00::/8".parse::<Cidr>().unwrap().is_ipv4());
    }

    #[test]
    fn a_network_contains_its_own_addresses_and_no_others() {
        let contains = |cidr: &str, address: &str| cidr.parse::<Cidr>().unwrap().contains(address.parse().unwrap());
        assert!(
            contains("10.0.0.0/8", "10.255.0.1") && contains("0.0.0.0/0", "1.2.3.4") && contains("fd00::/8", "fd12::1")
        );
        assert!(
            !contains("10.0.0.0/8", "11.0.0.1")
                && !contains("0.0.0.0/0", "::1")
                && !contains("192.0.2.1/32", "192.0.2.2")
        );
    }

    #[test]
    fn host_bits_are_refused_and_the_network_is_named() {
        let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "\"10.1.2.3/8\" has bits set after its prefix: write 10.0.0.0/8");
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/", "example.com/8"] {
            assert!(matches!(text.parse::<Cidr>(), Err(CidrError::Malformed(_))), "{text}");
        }
    }
}
