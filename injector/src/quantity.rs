//! Kubernetes quantities (`100m`, `64Mi`), as far as a resource request or limit needs them.
//!
//! The text is kept as the user wrote it; the value serves only to compare a request with its limit before the API
//! server does, since its message would name a container that the user never wrote.
//! Grammar: `k8s.io/apimachinery/pkg/api/resource`, type Quantity.

use std::{fmt, str::FromStr};

/// An amount of CPU or memory that is not negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    text: String,
    value: f64,
}

/// Why a quantity was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a quantity: write a number with an optional suffix, such as 100m, 0.5, 64Mi or 1Gi")]
pub struct QuantityError(String);

impl Quantity {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this amount is larger than `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.value > other.value
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        number
            .parse::<f64>()
            .ok()
            .zip(scale(suffix))
            .map(|(number, scale)| Self { text: text.to_owned(), value: number * scale })
            .filter(|quantity| quantity.value.is_finite())
            .ok_or_else(|| QuantityError(text.to_owned()))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a suffix multiplies by: a name for a power of 1000 or 1024, or a decimal exponent.
fn scale(suffix: &str) -> Option<f64> {
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let steps = |names: &[&str]| names.iter().position(|name| *name == suffix).and_then(|at| i32::try_from(at).ok());
    let exponent = || suffix.strip_prefix(['e', 'E'])?.parse().ok();
    steps(&DECIMAL)
        .map(|at| 1000_f64.powi(at - 3))
        .or_else(|| steps(&BINARY).map(|at| 1024_f64.powi(at + 1)))
        .or_else(|| exponent().map(|power| 10_f64.powi(power)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn every_suffix_has_its_size() {
        let rising =
            ["1n", "1u", "1m", "1", "1k", "1Ki", "1M", "1Mi", "1G", "1Gi", "1T", "1Ti", "1P", "1Pi", "1E", "1Ei"];
        for pair in rising.windows(2) {
            assert!(quantity(pair[1]).exceeds(&quantity(pair[0])), "{pair:?}");
        }
        assert!(!quantity("1000m").exceeds(&quantity("1")));
        assert!(!quantity("1e3").exceeds(&quantity("1k")));
        assert!(!quantity("1024Ki").exceeds(&quantity("1Mi")));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "much", "-1", "1 Gi", "1gi", "1MB", "Mi", "1.2.3", "0x10", "1e", "1e999"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
