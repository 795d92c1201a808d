//! Pods that wait to be touched: one of each namespace in turn, within a namespace in the order of first being asked for.
//!
//! A namespace with many pods that changes often would otherwise keep all others waiting, for ever if it asks faster than
//! pods can be touched. A pod that is asked for again keeps its place, and is touched with the newest value only.

use std::collections::{BTreeMap, VecDeque};

use crate::index::Key;

/// Who waits, and with what each is to be touched.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Namespaces with pods that wait, each once; the first is the next to have one touched.
    turns: VecDeque<String>,
    /// Their pods, by namespace, in the order of first being asked for.
    pods: BTreeMap<String, VecDeque<String>>,
    values: BTreeMap<Key, String>,
}

impl Line {
    /// `pod` is to be touched with `value`, and no more with what it was to be touched with before.
    pub(super) fn push(&mut self, pod: Key, value: String) {
        let Key { namespace, name } = pod.clone();
        if self.values.insert(pod, value).is_some() {
            return;
        }
        if !self.pods.contains_key(&namespace) {
            self.turns.push_back(namespace.clone());
        }
        self.pods.entry(namespace).or_default().push_back(name);
    }

    /// The pod whose turn it is, with what to touch it with.
    pub(super) fn pop(&mut self) -> Option<(Key, String)> {
        let namespace = self.turns.pop_front()?;
        let line = self.pods.get_mut(&namespace)?;
        let name = line.pop_front()?;
        if line.is_empty() {
            self.pods.remove(&namespace);
        } else {
            self.turns.push_back(namespace.clone());
        }
        self.values.remove_entry(&Key { namespace, name })
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(asked: &[(&str, &str)]) -> Line {
        let mut line = Line::default();
        for (pod, value) in asked {
            let (namespace, name) = pod.split_once('/').unwrap();
            line.push(Key::new(namespace, name), (*value).to_owned());
        }
        line
    }

    fn drained(mut line: Line) -> Vec<String> {
        let all = std::iter::from_fn(|| line.pop()).map(|(pod, value)| format!("{pod}={value}")).collect();
        assert!(line.is_empty() && line.pods.is_empty() && line.values.is_empty(), "{line:?}");
        all
    }

    #[test]
    fn namespaces_take_turns_and_pods_keep_their_order() {
        let line = line(&[("big/z", "1"), ("big/a", "1"), ("big/m", "1"), ("small/b", "1"), ("small/a", "1")]);
        assert_eq!(drained(line), ["big/z=1", "small/b=1", "big/a=1", "small/a=1", "big/m=1"]);
    }

    #[test]
    fn who_is_asked_for_again_keeps_its_place_and_has_the_newest_value() {
        let line = line(&[("shop/z", "1"), ("shop/a", "1"), ("shop/z", "2"), ("shop/a", "2"), ("shop/z", "3")]);
        assert_eq!(drained(line), ["shop/z=3", "shop/a=2"]);
    }

    #[test]
    fn a_namespace_that_never_rests_keeps_nobody_waiting() {
        let mut line = line(&[("b/quiet", "1"), ("b/other", "1")]);
        for turn in 0..4 {
            for pod in 0..100 {
                line.push(Key::new("a", format!("pod-{pod}")), turn.to_string());
            }
            line.pop();
        }
        assert!(!line.pods.contains_key("b"), "both were touched within four turns");
    }
}
