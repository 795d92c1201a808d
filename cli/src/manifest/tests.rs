use serde_json::json;

use super::*;

fn documents(text: &str) -> Vec<Document> {
    let manifests = Manifests::parse(&[Source { name: "a.yaml".into(), text: text.into() }]);
    assert_eq!(manifests.broken, []);
    manifests.documents
}

fn broken(text: &str) -> (usize, usize, String) {
    let manifests = Manifests::parse(&[Source { name: "a.yaml".into(), text: text.into() }]);
    let broken = manifests.broken.into_iter().next().expect("the text is broken");
    (broken.place.line, broken.place.column, broken.message)
}

#[test]
fn fields_know_where_they_stand() {
    let found = documents("# a comment\n---\nkind: A\nspec:\n  list:\n  - a: 1\n    b: {c: 2}\n---\n---\nkind: B\n");
    assert_eq!(found.len(), 2, "the empty document is left out");
    let first = &found[0];
    for (field, line, column) in [("kind", 3, 1), ("spec", 4, 1), ("spec.list[0]", 6, 5), ("spec.list[0].b.c", 7, 9)] {
        assert_eq!(first.place(field), Place { line, column }, "{field}");
    }
    assert_eq!(first.place("spec.list[0].missing.deep"), first.place("spec.list[0]"), "the nearest that is there");
    assert_eq!(first.place("nowhere"), Place { line: 3, column: 1 });
    assert_eq!(found[1].place("kind").line, 10);
}

#[test]
fn words_that_yaml_1_1_reads_otherwise_are_remembered() {
    let found = documents("on: 1\nsuspend: yes\nname: \"no\"\nport: 0o17\n");
    assert_eq!(found[0].value, json!({"true": 1, "suspend": true, "name": "no", "port": 15}));
    assert_eq!(found[0].key_word("true"), Some("on"));
    assert_eq!(found[0].value_word("suspend"), Some("yes"));
    assert_eq!(found[0].value_word("name"), None);
}

#[test]
fn anchors_and_merge_keys_work_as_for_kubectl() {
    let found = documents("p: &a {b: 1, c: 2}\nq: {<<: *a, c: 3}\nr: [*a]\nt: !!str 12\n");
    assert_eq!(
        found[0].value,
        json!({"p": {"b": 1, "c": 2}, "q": {"c": 3, "b": 1}, "r": [{"b": 1, "c": 2}], "t": "12"})
    );
    assert_eq!(found[0].place("q.b").line, 1, "inherited from there");
}

#[test]
fn broken_text_is_reported_with_its_place() {
    let (line, _, message) = broken("kind: A\n---\na: [1\nb: 2\n");
    assert!(line >= 3, "{line}");
    assert!(message.starts_with("not valid YAML: "), "{message}");
    assert_eq!(broken("a: 1\nb: 2\na: 3\n"), (3, 1, "`a` stands here twice: remove one of the two".into()));
    assert_eq!(broken("? [1]\n: 2\n").2, "a key must be text");
}

#[test]
fn a_few_anchors_do_not_become_a_billion_values() {
    let level = |level: u32| format!("a{}: &a{0} [{}x]\n", level + 1, format!("*a{level}, ").repeat(10));
    let levels: String = (0..8).map(level).collect();
    assert!(broken(&format!("a0: &a0 [x]\n{levels}")).2.contains("more than"));
}

#[test]
fn a_list_is_its_items() {
    let found = documents("apiVersion: v1\nkind: List\nitems:\n- kind: A\n  spec:\n    x: 1\n- kind: B\n");
    assert_eq!(found.iter().map(|document| document.text("/kind")).collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!(found[0].place("spec.x"), Place { line: 6, column: 5 });
    assert_eq!(found[1].place("kind").line, 7);
}

#[test]
fn nulls_in_objects_are_dropped_and_named() {
    let (value, dropped) = without_nulls(&json!({"a": null, "b": [null, {"c": null}], "d": 1}));
    assert_eq!(value, json!({"b": [null, {}], "d": 1}));
    assert_eq!(dropped, ["a", "b[1].c"]);
}
