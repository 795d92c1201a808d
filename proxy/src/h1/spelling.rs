//! How names were spelled. Names of fields are the same in any case (RFC 9110, 5.1), and there are programs that think otherwise; so
//! each goes on as it came.

use bytes::Bytes;
use http::HeaderName;

/// What a head says beside its meaning.
#[derive(Clone, Debug, Default)]
pub struct Spelling {
    names: Vec<Bytes>,
    /// A response's reason phrase, where it is not the usual one.
    pub phrase: Option<Bytes>,
}

/// Finds names that are asked for mostly in the order in which they came.
#[derive(Debug)]
pub struct Speller<'a> {
    names: &'a [Bytes],
    next: usize,
}

impl Spelling {
    /// Of names as they stand in `head`. Where all are in lower case there is nothing to note.
    pub fn of<'n>(head: &Bytes, names: impl Iterator<Item = &'n str> + Clone) -> Self {
        let is_usual = names.clone().all(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase()));
        let names = if is_usual { Vec::new() } else { names.map(|name| head.slice_ref(name.as_bytes())).collect() };
        Self { names, phrase: None }
    }

    /// To write a head by.
    pub fn speller(&self) -> Speller<'_> {
        Speller { names: &self.names, next: 0 }
    }
}

impl Speller<'_> {
    /// The bytes of a name as it came, or as usual if it did not.
    pub fn spell<'n>(&mut self, name: &'n HeaderName) -> &'n [u8]
    where
        Self: 'n,
    {
        let name = name.as_str().as_bytes();
        let (before, after) = self.names.split_at(self.next.min(self.names.len()));
        let places = (self.next..).zip(after).chain((0..).zip(before));
        for (place, spelled) in places {
            if spelled.eq_ignore_ascii_case(name) {
                self.next = place + 1;
                return spelled;
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_spelled_as_it_came_in_whatever_order() {
        let head = Bytes::from_static(b"Host x-lower X-ID x-Id x-id");
        let spelling = Spelling::of(&head, std::str::from_utf8(&head).unwrap().split(' '));
        let mut speller = spelling.speller();
        let ask = ["x-id", "x-id", "x-id", "x-id", "host", "via", "x-lower"].map(HeaderName::from_static);
        let told: Vec<_> = ask.iter().map(|name| String::from_utf8(speller.spell(name).to_vec()).unwrap()).collect();
        assert_eq!(told, ["X-ID", "x-Id", "x-id", "X-ID", "Host", "via", "x-lower"]);
    }
}
