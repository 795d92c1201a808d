//! What a plain YAML scalar means to kubectl.
//!
//! kubectl and Helm read YAML 1.1 through go-yaml v2: `yes`, `on` and `y` are booleans, `017` and `0o17` are fifteen,
//! `1_000` is a thousand, and dates stay text. Reading YAML 1.2 here would accept files that the API server refuses.

use serde_json::{Number, Value};

/// The value of a plain (unquoted) scalar without a tag.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

/// Whether a plain scalar is read as something else than the text that stands there, so that quoting it changes its meaning.
pub(super) fn surprises(text: &str) -> bool {
    !plain(text).is_string()
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return None;
    }
    let text = text.replace('_', "");
    integer(&text).or_else(|| float(&text))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A sign here would be a second one.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    if negative { 0i64.checked_sub_unsigned(value).map(Number::from) } else { Some(Number::from(value)) }
}

/// Floats without a fraction become integers, as they do on kubectl's way through JSON.
fn float(text: &str) -> Option<Number> {
    let shape = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !text.contains(|c: char| c.is_ascii_digit()) || !text.chars().all(shape) {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    let whole = format!("{value:.0}");
    if value.fract() == 0.0 && value.abs() < 1e15 {
        whole.parse::<i64>().ok().map(Number::from)
    } else {
        Number::from_f64(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The expected values are what `kubectl create --dry-run=client -o json` (1.34) makes of the same text.
    #[test]
    fn reads_as_kubectl_reads() {
        let words =
            [("y", true), ("Y", true), ("yes", true), ("on", true), ("Off", false), ("n", false), ("TRUE", true)];
        for (text, value) in words {
            assert_eq!(plain(text), json!(value), "{text}");
        }
        let numbers = [("0x1F", 31), ("017", 15), ("0o17", 15), ("1_000", 1000), ("0b11", 3), ("+5", 5), ("20.0", 20)];
        for (text, value) in
            numbers.into_iter().chain([("1e3", 1000), ("1.", 1), ("08", 8), ("-0x1f", -31), ("-017", -15)])
        {
            assert_eq!(plain(text), json!(value), "{text}");
        }
        for (text, value) in [(".5", 0.5), ("0.5", 0.5), ("09.5", 9.5)] {
            assert_eq!(plain(text), json!(value), "{text}");
        }
        for text in ["tRue", "1:30", "2001-01-01", "300ms", "5xx", "-", "+", ".", "0x", "1e", "--5", "0x-5", "nullable"]
        {
            assert_eq!(plain(text), json!(text), "{text}");
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(plain(text), Value::Null, "{text}");
        }
    }
}
