//! What the proxy counts, read from its admin port as anybody would.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::http::{self, NoAnswer};

const PATIENCE: Duration = Duration::from_secs(5);
/// Between two scrapes; there is no event to wait for.
const PAUSE: Duration = Duration::from_millis(20);

/// All series with their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// Scrapes the admin port.
    pub(crate) async fn scrape(admin: SocketAddr) -> Result<Self, NoAnswer> {
        let answer = http::get(&http::url(admin, "/metrics"), PATIENCE).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// Scrapes until `enough`, but not for ever; what was scraped last comes back either way.
    pub(crate) async fn until(admin: SocketAddr, enough: impl Fn(&Self) -> bool) -> Result<Self, NoAnswer> {
        let end = Instant::now() + PATIENCE;
        loop {
            let metrics = Self::scrape(admin).await?;
            if enough(&metrics) || Instant::now() > end {
                return Ok(metrics);
            }
            sleep(PAUSE).await;
        }
    }

    fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum of all series of `name` that carry all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let fits = |series: &str| {
            let inside = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')?.strip_suffix('}'));
            inside.is_some_and(|inside| wanted.iter().all(|label| inside.split(',').any(|own| own == label)))
        };
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let gained = |(series, value): (&String, &u64)| {
            (series.clone(), value.saturating_sub(earlier.0.get(series).copied().unwrap_or_default()))
        };
        Self(self.0.iter().map(gained).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_labels_and_differs() {
        let text =
            "# HELP x y\nx_total{a=\"1\",b=\"2\"} 3\nx_total{a=\"1\",b=\"3\"} 4\nx_totals{a=\"1\"} 9\ny 1.5\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("x_total", &[("a", "1")]), 7);
        assert_eq!(metrics.sum("x_total", &[("a", "1"), ("b", "3")]), 4);
        assert_eq!(metrics.sum("x_total", &[("a", "2")]), 0);
        let later = Metrics::parse(&text.replace("} 4", "} 10"));
        assert_eq!(later.since(&metrics).sum("x_total", &[]), 6);
    }
}
