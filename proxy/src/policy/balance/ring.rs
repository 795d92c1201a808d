//! A hash ring: each endpoint stands at many points of a circle, and a key belongs to the first endpoint after it. When an
//! endpoint comes or goes, only the keys at its own points move.
//!
//! Where the points are follows from the endpoints' addresses alone, so all callers of a callee agree.

use std::net::SocketAddr;

use crate::policy::fault::id_hash;

/// Points of each endpoint: with these its part of the circle is within about a quarter of its fair share.
const POINTS: usize = 160;

/// Points of all endpoints together, at most: 1 MiB.
const MOST: usize = 1 << 16;

/// Where endpoints stand, sorted; an endpoint by its place in the list.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, usize)]>);

/// Endpoints in the order in which they stand after a key, each once.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    ring: &'a Ring,
    at: usize,
    left: usize,
    seen: Seen,
}

/// The first few places of a list that were seen, without an allocation. What comes later may be seen again.
#[derive(Debug, Default)]
pub(super) struct Seen {
    places: [usize; 16],
    count: usize,
}

impl Ring {
    pub(super) fn new(addresses: impl ExactSizeIterator<Item = SocketAddr>) -> Self {
        let each = (MOST / addresses.len().max(1)).clamp(1, POINTS);
        let points = |(place, address): (usize, SocketAddr)| {
            let seed = id_hash(address.to_string().as_bytes());
            (0..each as u64).map(move |point| (scatter(seed ^ scatter(point)), place))
        };
        let mut points: Vec<_> = addresses.enumerate().flat_map(points).collect();
        points.sort_unstable();
        Self(points.into())
    }

    pub(super) fn walk(&self, key: u64) -> Walk<'_> {
        let at = self.0.partition_point(|(point, _)| *point < key);
        Walk { ring: self, at, left: self.0.len(), seen: Seen::default() }
    }
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        // Whom it has met is remembered up to a point, and there the walk ends: else each point would be a new one.
        while self.left > 0 && !self.seen.is_full() {
            let (_, place) = *self.ring.0.get(self.at).or_else(|| self.ring.0.first())?;
            self.at = (self.at + 1) % self.ring.0.len();
            self.left -= 1;
            if self.seen.is_new(place) {
                return Some(place);
            }
        }
        None
    }
}

impl Seen {
    fn is_full(&self) -> bool {
        self.count == self.places.len()
    }

    /// Whether a place was not seen before, as far as is remembered; it is from now on.
    pub(super) fn is_new(&mut self, place: usize) -> bool {
        if self.places[..self.count].contains(&place) {
            return false;
        }
        if let Some(free) = self.places.get_mut(self.count) {
            *free = place;
            self.count += 1;
        }
        true
    }
}

/// A point of the circle for a hash whose bits are not all alike (the finalizer of MurmurHash3).
pub(super) fn scatter(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: std::ops::Range<u16>) -> Vec<SocketAddr> {
        ports.map(|port| ([10, 0, 0, 1], port).into()).collect()
    }

    fn owner(ring: &Ring, key: u64) -> usize {
        ring.walk(key).next().unwrap()
    }

    #[test]
    fn keys_are_shared_about_evenly() {
        let ring = Ring::new(addresses(1..11).into_iter());
        let mut keys = [0_u32; 10];
        (0..100_000).for_each(|key| keys[owner(&ring, scatter(key))] += 1);
        assert!(keys.iter().all(|count| (7_000..13_500).contains(count)), "{keys:?}");
    }

    #[test]
    fn an_endpoint_that_goes_moves_its_own_keys_only() {
        let all = addresses(1..11);
        let without: Vec<_> = all.iter().copied().filter(|address| address.port() != 4).collect();
        let (before, after) = (Ring::new(all.iter().copied()), Ring::new(without.iter().copied()));
        for key in (0..10_000).map(scatter) {
            let (was, is) = (all[owner(&before, key)], without[owner(&after, key)]);
            assert!(was == is || was.port() == 4, "{was} became {is}");
            let next = before.walk(key).map(|place| all[place]).find(|address| address.port() != 4);
            assert_eq!(next, Some(is), "and they go where a retry would have gone");
        }
    }

    #[test]
    fn a_walk_meets_each_endpoint_once() {
        let ring = Ring::new(addresses(1..11).into_iter());
        let mut met: Vec<_> = ring.walk(u64::MAX).collect();
        met.sort_unstable();
        assert_eq!(met, (0..10).collect::<Vec<_>>());
        assert_eq!(Ring::new(std::iter::empty()).walk(7).next(), None);
    }

    #[test]
    fn a_walk_among_many_is_short() {
        let ring = Ring::new(addresses(1..401).into_iter());
        assert_eq!(ring.walk(7).collect::<std::collections::BTreeSet<_>>().len(), ring.walk(7).count());
        assert_eq!(ring.walk(7).count(), 16);
    }

    #[test]
    fn many_endpoints_have_fewer_points_each() {
        assert_eq!(Ring::new(addresses(0..4_096).into_iter()).0.len(), MOST);
    }
}
