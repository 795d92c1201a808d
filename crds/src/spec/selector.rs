//! Who calls: namespaces and pods chosen by their labels, as Kubernetes' own selectors choose.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of a namespace or a pod.
pub type Labels = BTreeMap<String, String>;

/// Which callers something is for. Both selectors must match; one that is left out matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct Callers {
    /// Namespaces of the callers, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods of the callers, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// Labels that must, or must not, be there. All parts must hold; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "kube", schemars(schema_with = "super::schema::labels"))]
    pub match_labels: Labels,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 16)))]
    pub match_expressions: Vec<Expression>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "kube", schemars(extend("x-kubernetes-validations" = super::schema::expression_rules())))]
pub struct Expression {
    /// The label's key.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 317)))]
    pub key: String,
    /// How `values` are meant.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kube", schemars(length(max = 16), inner(length(max = 63))))]
    pub values: Vec<String>,
}

/// What a label must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is not there, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether `labels` satisfy every part of the selector.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        selector.matches(&labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn chooses_as_kubernetes_does() {
        let web = [("app", "web"), ("tier", "front")];
        assert!(selects("{}", &web));
        assert!(selects(r#"{"matchLabels":{"app":"web"}}"#, &web));
        assert!(!selects(r#"{"matchLabels":{"app":"web","tier":"back"}}"#, &web));
        assert!(selects(r#"{"matchExpressions":[{"key":"app","operator":"In","values":["web","api"]}]}"#, &web));
        assert!(!selects(r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#, &web));
        assert!(selects(r#"{"matchExpressions":[{"key":"zone","operator":"NotIn","values":["a"]}]}"#, &web));
        assert!(selects(r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#, &web));
        assert!(!selects(r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#, &web));
    }
}
