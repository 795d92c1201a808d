//! From YAML text to documents whose fields know their places.
//!
//! Built on the parser's events, because a deserializer into values forgets the places. Anchors, aliases and merge keys
//! (`<<`) work as they do for kubectl; a key that stands twice is an error, as it is for kubectl's strict decoding.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Value};

use super::{Broken, Document, Mark, Place, field, item, scalar};

/// Most values in one document, aliases expanded: a few anchors must not become a billion values.
const MAX_VALUES: usize = 200_000;

/// A value with its place, before aliases are expanded.
#[derive(Debug)]
struct Node {
    place: Place,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    /// A scalar, with the word that stood there if YAML 1.1 made something else of it.
    Scalar(Value, Option<String>),
    List(Vec<Rc<Node>>),
    Map(Vec<(Key, Rc<Node>)>),
}

#[derive(Debug)]
struct Key {
    text: String,
    word: Option<String>,
    place: Place,
}

/// What is wrong, and where.
type Problem = (Place, String);

/// The documents of `text`, and what stopped the reading, if something did. Empty documents are left out.
pub(super) fn parse(file: &str, text: &str) -> (Vec<Document>, Option<Broken>) {
    let file: Arc<str> = file.into();
    let mut documents = Vec::new();
    let options = granit_parser::options! { emit_comments: false };
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, options), anchors: HashMap::new() };
    loop {
        match reader.document() {
            Ok(Some(node)) => match flattened(&node) {
                Ok((Value::Null, _)) => {}
                Ok((value, marks)) => documents.push(Document { file: Arc::clone(&file), value, marks }),
                Err((place, message)) => return (documents, Some(Broken { file, place, message })),
            },
            Ok(None) => return (documents, None),
            Err((place, message)) => return (documents, Some(Broken { file, place, message })),
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
}

impl<'a> Reader<'a> {
    /// The next document, if there is one.
    fn document(&mut self) -> Result<Option<Rc<Node>>, Problem> {
        self.anchors.clear();
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                first => return self.node(first).map(Some),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next_event() {
            Some(event) => event.map_err(|error| scan_problem(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, (event, span): (Event<'a>, Span)) -> Result<Rc<Node>, Problem> {
        let place = place(&span);
        let (anchor, shape) = match event {
            Event::Alias(anchor) => {
                let unfinished = || (place, "the alias stands inside what it names".to_owned());
                return self.anchors.get(&anchor).cloned().ok_or_else(unfinished);
            }
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(&text, style, tag.as_deref())),
            Event::SequenceStart(_, anchor, _) => (anchor, self.list()?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map()?),
            other => return Err((place, format!("not understood: {other:?}"))),
        };
        let node = Rc::new(Node { place, shape });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Shape, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Shape::List(items)),
                first => items.push(self.node(first)?),
            }
        }
    }

    fn map(&mut self) -> Result<Shape, Problem> {
        let mut entries: Vec<(Key, Rc<Node>)> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let first = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Shape::Map(merged(entries))),
                first => first,
            };
            let key = key(&*self.node(first)?)?;
            if !seen.insert(key.text.clone()) && key.text != "<<" {
                return Err((key.place, format!("`{}` stands here twice: remove one of the two", key.text)));
            }
            let first = self.next()?;
            entries.push((key, self.node(first)?));
        }
    }
}

/// Copies in what `<<` names; what stands in the map itself wins.
fn merged(entries: Vec<(Key, Rc<Node>)>) -> Vec<(Key, Rc<Node>)> {
    let (merges, mut entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key.text == "<<");
    let sources = merges.iter().flat_map(|(_, node)| match &node.shape {
        Shape::List(items) => items.clone(),
        _ => vec![Rc::clone(node)],
    });
    for source in sources {
        let Shape::Map(inherited) = &source.shape else { continue };
        for (key, node) in inherited {
            if entries.iter().all(|(own, _)| own.text != key.text) {
                let key = Key { text: key.text.clone(), word: key.word.clone(), place: key.place };
                entries.push((key, Rc::clone(node)));
            }
        }
    }
    entries
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Shape {
    let text_only = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
    let plain =
        (style == ScalarStyle::Plain && !text_only) || tag.is_some_and(|tag| tag.is_yaml_core_schema() && !text_only);
    if plain {
        Shape::Scalar(scalar::plain(text), scalar::surprises(text).then(|| text.to_owned()))
    } else {
        Shape::Scalar(Value::String(text.to_owned()), None)
    }
}

/// A key as it stands in JSON, where every key is text.
fn key(node: &Node) -> Result<Key, Problem> {
    let place = node.place;
    match &node.shape {
        Shape::Scalar(Value::String(text), _) => Ok(Key { text: text.clone(), word: None, place }),
        Shape::Scalar(value, word) if !value.is_null() => {
            Ok(Key { text: value.to_string(), word: word.clone(), place })
        }
        _ => Err((place, "a key must be text".to_owned())),
    }
}

fn flattened(node: &Node) -> Result<(Value, HashMap<String, Mark>), Problem> {
    let mut marks = HashMap::new();
    let value = flatten(node, "", &mut marks)?;
    marks.entry(String::new()).or_default().place = node.place;
    Ok((value, marks))
}

fn flatten(node: &Node, at: &str, marks: &mut HashMap<String, Mark>) -> Result<Value, Problem> {
    if marks.len() > MAX_VALUES {
        return Err((node.place, format!("the document has more than {MAX_VALUES} values")));
    }
    let mark = marks.entry(at.to_owned()).or_insert_with(|| Mark { place: node.place, ..Mark::default() });
    match &node.shape {
        Shape::Scalar(value, word) => {
            mark.value_word.clone_from(word);
            Ok(value.clone())
        }
        Shape::List(items) => {
            items.iter().enumerate().map(|(index, node)| flatten(node, &item(at, index), marks)).collect()
        }
        Shape::Map(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                let name = field(at, &key.text);
                // A field's place is its key's: that is where a reader looks for it.
                marks.insert(name.clone(), Mark { place: key.place, key_word: key.word.clone(), value_word: None });
                map.insert(key.text.clone(), flatten(node, &name, marks)?);
            }
            Ok(Value::Object(map))
        }
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn scan_problem(error: &ScanError) -> Problem {
    let marker = error.marker();
    (Place { line: marker.line(), column: marker.col() + 1 }, format!("not valid YAML: {}", error.info()))
}
