//! Objects of Kubernetes, as far as they are read here.

use super::super::write::Subject;
use super::File;
use crate::document::Value;

/// One object.
#[derive(Clone, Copy)]
pub(super) struct Object<'d> {
    pub(super) kind: &'d str,
    pub(super) name: &'d str,
    pub(super) namespace: &'d str,
    /// What stands under `spec`, or the object itself.
    pub(super) spec: Value<'d>,
    pub(super) whole: Value<'d>,
    pub(super) line: u32,
}

impl<'d> Object<'d> {
    /// The objects of all documents, those of lists included.
    pub(super) fn all(documents: &[Value<'d>], file: &mut File<'_>) -> Vec<Object<'d>> {
        let mut objects = Vec::new();
        for &document in documents {
            if document.entries().next().is_none() {
                // Between two separators there is often nothing.
                continue;
            }
            match document.get("items") {
                Some(items) => objects.extend(items.items().filter_map(|v| Object::of(v, file))),
                None => objects.extend(Object::of(document, file)),
            }
        }
        objects
    }

    fn of(value: Value<'d>, file: &mut File<'_>) -> Option<Object<'d>> {
        let Some(kind) = word(value, "kind") else {
            file.leave_out(value.line(), "a document", "it is no Kubernetes object");
            return None;
        };
        let metadata = value.get("metadata");
        let of = |key| metadata.and_then(|metadata| word(metadata, key));
        Some(Object {
            kind,
            name: of("name").unwrap_or("unnamed"),
            namespace: of("namespace").unwrap_or_default(),
            spec: value.get("spec").unwrap_or(value),
            whole: value,
            line: value.line(),
        })
    }

    pub(super) fn title(self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

impl Subject {
    /// Everyone in a namespace.
    pub(super) fn in_namespace(name: &str) -> Subject {
        Subject {
            namespace: Some(name.to_owned()),
            ..Subject::default()
        }
    }
}

/// The items of a list below a key, or nothing.
pub(super) fn list<'d>(value: Value<'d>, key: &str) -> Vec<Value<'d>> {
    value.get(key).into_iter().flat_map(Value::items).collect()
}

/// The text below a key.
pub(super) fn word<'d>(value: Value<'d>, key: &str) -> Option<&'d str> {
    value.get(key)?.word()
}
