//! YAML text to a tree of nodes that know their place, within bounds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::ledger::{Ledger, Place};
use super::value::{Subject, Value, shown};

/// The deepest nesting of lists and maps: several times what any of our documents has, and
/// little enough for everything that walks down a tree, dropping it included, to recurse.
const MAX_DEPTH: usize = 32;

/// The most nodes that aliases may add to a document. Ten anchors of ten aliases each, one
/// above the other, stand for ten billion nodes in a file of half a kilobyte.
const MAX_ALIASED: usize = 100_000;

/// One node of the document.
pub(super) struct Node<'t> {
    pub(super) place: Place,
    pub(super) kind: Kind<'t>,
}

/// What a node is.
pub(super) enum Kind<'t> {
    /// Text, as it stands in the document; `plain` if it stands there without quotes.
    Scalar { text: Cow<'t, str>, plain: bool },
    /// A sequence.
    List(Vec<Node<'t>>),
    /// A mapping, in the order of the text.
    Map(Vec<Entry<'t>>),
    /// A node with an anchor, or an alias for one.
    Shared(Rc<Node<'t>>),
}

/// One key of a map with its value.
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) place: Place,
    pub(super) value: Node<'t>,
}

impl<'t> Node<'t> {
    /// What the node is, behind anchors and aliases.
    pub(super) fn kind(&self) -> &Kind<'t> {
        match &self.kind {
            Kind::Shared(node) => node.kind(),
            kind => kind,
        }
    }
}

/// Where the items of one list of the top map go, as soon as each of them is read, instead of
/// into the tree: a list of a million maps is never held as a whole.
pub(super) struct Stream<'s> {
    pub(super) key: &'static str,
    pub(super) item: &'s mut dyn FnMut(Value<'_>),
}

/// Parses a text that holds one document. `None` if a mistake hid the rest of the text, which
/// then is in the ledger.
pub(super) fn parse<'t, 'l>(
    text: &'t str,
    ledger: &'l Ledger,
    stream: Option<Stream<'l>>,
) -> Option<Node<'t>> {
    let mut tree = Tree::new(text, ledger);
    tree.stream = stream;
    tree.grow(text)?;
    if tree.roots.is_empty() {
        ledger.mistake(Place::START, "the document is empty".to_owned());
    }
    tree.roots.pop()
}

/// Parses a text that holds any number of documents.
pub(super) fn parse_all<'t>(text: &'t str, ledger: &Ledger) -> Option<Vec<Node<'t>>> {
    let mut tree = Tree::new(text, ledger);
    tree.many = true;
    tree.grow(text)?;
    Some(tree.roots)
}

/// A mistake, already in the ledger, behind which nothing can be read.
struct Stop;

/// A tree that grows event by event.
struct Tree<'t, 'l> {
    ledger: &'l Ledger,
    source: Source<'t>,
    stream: Option<Stream<'l>>,
    /// Whether another document may follow.
    many: bool,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, Anchored<'t>>,
    aliased: usize,
    roots: Vec<Node<'t>>,
}

/// A list or map whose end has not come yet.
struct Open<'t> {
    place: Place,
    items: Items<'t>,
    anchor: usize,
    size: Size,
}

enum Items<'t> {
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>, Key<'t>),
}

/// The key whose value comes next.
enum Key<'t> {
    None,
    Read(Cow<'t, str>, Place),
    Unusable,
}

struct Anchored<'t> {
    node: Rc<Node<'t>>,
    size: Size,
}

/// How much a node stands for once its aliases are followed.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

impl<'t, 'l> Tree<'t, 'l> {
    fn new(text: &'t str, ledger: &'l Ledger) -> Tree<'t, 'l> {
        Tree {
            ledger,
            source: Source {
                rest: text,
                index: 0,
            },
            stream: None,
            many: false,
            open: Vec::new(),
            anchors: HashMap::new(),
            aliased: 0,
            roots: Vec::new(),
        }
    }

    fn grow(&mut self, text: &'t str) -> Option<()> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => self.take(event, place(span)).ok()?,
                Err(error) => {
                    self.ledger
                        .mistake(place_of(&error), sentence(&error, text));
                    return None;
                }
            }
        }
        Some(())
    }

    fn take(&mut self, event: Event<'t>, place: Place) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), place);
                let plain = style == ScalarStyle::Plain;
                let text = self.source.borrow(text, place.index as usize, plain);
                let kind = Kind::Scalar { text, plain };
                self.attach(Node { place, kind }, anchor, Size { nodes: 1, depth: 0 });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), place);
                self.open(Items::List(Vec::new()), anchor, place)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), place);
                self.open(Items::Map(Vec::new(), Key::None), anchor, place)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, place)?,
            Event::DocumentStart(_) if !self.many && !self.roots.is_empty() => {
                return self.stop(place, "a second document begins here, and one is read");
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Nothing => {}
        }
        Ok(())
    }

    fn open(&mut self, items: Items<'t>, anchor: usize, place: Place) -> Result<(), Stop> {
        let size = Size { nodes: 1, depth: 1 };
        self.check_depth(size, place)?;
        self.open.push(Open {
            place,
            items,
            anchor,
            size,
        });
        Ok(())
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else {
            return;
        };
        // Most collections are small, and there may be a million of them: none keeps room to
        // grow.
        let kind = match open.items {
            Items::List(mut nodes) => {
                nodes.shrink_to_fit();
                Kind::List(nodes)
            }
            Items::Map(mut entries, _) => {
                entries.shrink_to_fit();
                self.report_duplicates(&entries);
                Kind::Map(entries)
            }
        };
        let place = open.place;
        self.attach(Node { place, kind }, open.anchor, open.size);
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Stop> {
        let Some(Anchored { node, size }) = self.anchors.get(&anchor) else {
            return self.stop(place, "this alias stands inside what it is an alias for");
        };
        let (node, size) = (Rc::clone(node), *size);
        self.check_depth(size, place)?;
        self.aliased = self.aliased.saturating_add(size.nodes);
        if self.aliased > MAX_ALIASED {
            let sentence = format!(
                "the aliases up to here stand for more than {MAX_ALIASED} values; \
                 write some of them out"
            );
            return self.stop(place, &sentence);
        }
        let kind = Kind::Shared(node);
        self.attach(Node { place, kind }, 0, size);
        Ok(())
    }

    /// Puts a finished node where it belongs: under its anchor, and into what is open.
    fn attach(&mut self, mut node: Node<'t>, anchor: usize, size: Size) {
        if anchor != 0 {
            let place = node.place;
            let shared = Rc::new(node);
            let kind = Kind::Shared(Rc::clone(&shared));
            self.anchors.insert(anchor, Anchored { node: shared, size });
            node = Node { place, kind };
        }
        if let Some(stream) = &mut self.stream
            && let [top, list] = self.open.as_slice()
            && top.is_at(stream.key)
            && list.is_plain_list()
        {
            let subject = Subject::Item(stream.key);
            (stream.item)(Value::new(&node, subject, self.ledger));
            return;
        }
        let Some(open) = self.open.last_mut() else {
            self.roots.push(node);
            return;
        };
        open.size.nodes = open.size.nodes.saturating_add(size.nodes);
        open.size.depth = open.size.depth.max(size.depth + 1);
        match &mut open.items {
            Items::List(nodes) => nodes.push(node),
            Items::Map(entries, key) => match std::mem::replace(key, Key::None) {
                Key::None => *key = read_key(node, self.ledger),
                Key::Read(key, place) => entries.push(Entry {
                    key,
                    place,
                    value: node,
                }),
                Key::Unusable => {}
            },
        }
    }

    fn check_depth(&self, size: Size, place: Place) -> Result<(), Stop> {
        if self.open.len() + size.depth > MAX_DEPTH {
            let sentence = format!("nested more than {MAX_DEPTH} levels deep");
            return self.stop(place, &sentence);
        }
        Ok(())
    }

    fn report_duplicates(&self, entries: &[Entry<'_>]) {
        let mut sorted: Vec<_> = entries.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for pair in sorted.windows(2) {
            if let [first, second] = pair
                && first.key == second.key
            {
                let (key, line) = (shown(&second.key), first.place.line);
                let sentence = format!("`{key}` stands on line {line} already");
                self.ledger.mistake(second.place, sentence);
            }
        }
    }

    fn refuse_tag(&self, tag: Option<&Tag>, place: Place) {
        if tag.is_some() {
            let sentence = "a tag (`!…`) has no meaning here; remove it";
            self.ledger.mistake(place, sentence.to_owned());
        }
    }

    fn stop(&self, place: Place, sentence: &str) -> Result<(), Stop> {
        self.ledger.mistake(place, sentence.to_owned());
        Err(Stop)
    }
}

impl Open<'_> {
    /// Whether it is a map whose next value stands under this key.
    fn is_at(&self, wanted: &str) -> bool {
        matches!(&self.items, Items::Map(_, Key::Read(key, _)) if key == wanted)
    }

    /// Whether it is a list that no alias can ask for again.
    fn is_plain_list(&self) -> bool {
        self.anchor == 0 && matches!(self.items, Items::List(_))
    }
}

/// What is left of the text behind the scalar that came last.
///
/// The parser copies every scalar. Where it stands in the text as it is, which nearly all do,
/// the copy is given up for a borrow.
struct Source<'t> {
    rest: &'t str,
    /// Characters before the rest.
    index: usize,
}

impl<'t> Source<'t> {
    fn borrow(&mut self, text: Cow<'t, str>, index: usize, plain: bool) -> Cow<'t, str> {
        let Some(ahead) = index.checked_sub(self.index) else {
            return text;
        };
        let mut rest = self.rest.chars();
        if ahead > 0 {
            rest.nth(ahead - 1);
        }
        (self.rest, self.index) = (rest.as_str(), index);
        if !plain {
            rest.next();
        }
        match rest.as_str().get(..text.len()) {
            Some(same) if same == text => Cow::Borrowed(same),
            _ => text,
        }
    }
}

fn read_key<'t>(node: Node<'t>, ledger: &Ledger) -> Key<'t> {
    match node.kind {
        Kind::Scalar { text, .. } if !text.is_empty() => Key::Read(text, node.place),
        _ => {
            let sentence = "a key should be a word, on one line and without `?`, `&` or `*`";
            ledger.mistake(node.place, sentence.to_owned());
            Key::Unusable
        }
    }
}

fn place(span: Span) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let width = match span.end.line() == span.start.line() {
        true => span.end.col().saturating_sub(span.start.col()),
        false => 0,
    };
    Place {
        index: number(span.start.index()),
        line: number(span.start.line()),
        width: number(width),
    }
}

fn place_of(error: &ScanError) -> Place {
    place(Span::empty(*error.marker()))
}

/// What the parser objects to, and the way out of the one mistake that a list of wildcards
/// invites.
fn sentence(error: &ScanError, text: &str) -> String {
    match text.chars().nth(error.marker().index()) {
        Some('*') => "a value that begins with `*` needs quotes, since a bare `*` makes it a \
                      YAML alias"
            .to_owned(),
        _ => format!("this is not YAML: {}", error.info()),
    }
}
