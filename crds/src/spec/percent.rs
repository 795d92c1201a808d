//! Shares of a hundred, written as an integer (`20`) or, for finer steps, a decimal string (`"0.1"`). Never a float: YAML
//! floats do not survive every tool that handles a manifest.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A share from 0 to 100 percent, in steps of 0.0001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// One percent, in parts per million.
const ONE: u32 = 10_000;

/// A text or number that is not a share from 0 to 100.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a percentage: write an integer from 0 to 100, or a string with at most four decimals such as \"0.1\""
)]
pub struct InvalidPercent(String);

impl Percent {
    /// `whole` percent; everything above 100 counts as 100.
    pub const fn whole(whole: u32) -> Self {
        Self(if whole > 100 { 100 * ONE } else { whole * ONE })
    }

    /// The share in parts per million: 20 % is 200,000.
    pub const fn parts_per_million(self) -> u32 {
        self.0
    }

    fn from_integer(value: u64) -> Result<Self, InvalidPercent> {
        let whole = u32::try_from(value).ok().filter(|whole| *whole <= 100);
        whole.map(Self::whole).ok_or_else(|| InvalidPercent(value.to_string()))
    }
}

impl FromStr for Percent {
    type Err = InvalidPercent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPercent(text.chars().take(32).collect());
        let digits =
            |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let (whole, decimals) = text.split_once('.').map_or((text, None), |(whole, decimals)| (whole, Some(decimals)));
        if !digits(whole, 3) || decimals.is_some_and(|decimals| !digits(decimals, 4)) {
            return Err(invalid());
        }
        let fraction: u32 = format!("{:0<4}", decimals.unwrap_or_default()).parse().map_err(|_| invalid())?;
        let whole: u32 = whole.parse().map_err(|_| invalid())?;
        let share = whole * ONE + fraction;
        if share <= 100 * ONE { Ok(Self(share)) } else { Err(invalid()) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / ONE, self.0 % ONE) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, fraction) => f.write_str(format!("{whole}.{fraction:04}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(ONE) { serializer.serialize_u32(self.0 / ONE) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Integer(u64),
            Text(Cow<'a, str>),
            Other(serde_json::Value),
        }
        match Written::deserialize(deserializer)? {
            Written::Integer(value) => Self::from_integer(value),
            Written::Text(text) => text.parse(),
            Written::Other(value) => Err(InvalidPercent(value.to_string())),
        }
        .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_and_decimal_strings_and_nothing_else() {
        for (json, parts) in
            [("20", 200_000), ("\"0.1\"", 1_000), ("\"99.9999\"", 999_999), ("0", 0), ("\"100\"", 1_000_000)]
        {
            assert_eq!(serde_json::from_str::<Percent>(json).unwrap().parts_per_million(), parts, "{json}");
        }
        for json in
            ["101", "-1", "0.1", "\"100.0001\"", "\"1.00001\"", "\"\"", "\".5\"", "\"5.\"", "\"5%\"", "null", "true"]
        {
            assert!(serde_json::from_str::<Percent>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn survives_the_round_trip(parts in 0u32..=1_000_000) {
            let percent = Percent(parts);
            let json = serde_json::to_string(&percent).unwrap();
            prop_assert_eq!(serde_json::from_str::<Percent>(&json).unwrap(), percent);
        }
    }
}
