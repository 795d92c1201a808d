//! What a proxy counts, read from Prometheus text.

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the text format; lines that are no samples are passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of all samples with this name whose labels contain these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        of_name.filter(|sample| labels.iter().all(|label| sample.has(*label))).map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn has(&self, (name, value): (&str, &str)) -> bool {
        self.labels.iter().any(|label| label.0 == name && label.1 == value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // No label of ours has a quote or a comma in its value.
    let labels = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let metrics = Metrics::parse(
            "# TYPE a_total counter\na_total{x=\"1\",y=\"shop/web\"} 2\na_total{x=\"2\",y=\"shop/web\"} 3\nb 1.5\n",
        );
        assert!((metrics.sum("a_total", &[("y", "shop/web")]) - 5.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a_total", &[("x", "2")]) - 3.0).abs() < f64::EPSILON);
        assert!((metrics.sum("b", &[]) - 1.5).abs() < f64::EPSILON);
        assert!(metrics.sum("c", &[]).abs() < f64::EPSILON);
    }
}
