//! The text of a file, taken apart into documents and those into the objects they hold.
//!
//! YAML is split at its `---` lines before it is parsed, as kubectl does it: a document that does
//! not parse then leaves the others alone.

use serde::Deserialize;
use serde_json::Value;

/// Where in a file an object stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Documents with content count from 1.
    pub(super) document: usize,
    /// Line on which the document begins, from 1; `None` in JSON.
    pub(super) line: Option<usize>,
    /// Place in a `List`, from 1.
    pub(super) item: Option<usize>,
}

/// One object, or the reason why the text holds none.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Document {
    /// Where it stands.
    pub(super) place: Place,
    /// As read, or the parser's word on it.
    pub(super) value: Result<Value, String>,
}

/// Objects of a file in their order; `is_json`: by the file's name.
pub(super) fn documents(text: &str, is_json: bool) -> Vec<Document> {
    let documents = if is_json { json(text) } else { yaml(text) };
    documents.into_iter().flat_map(unfold).collect()
}

fn json(text: &str) -> Vec<Document> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let numbered = values.enumerate().map(|(index, value)| Document {
        place: Place {
            document: index + 1,
            line: None,
            item: None,
        },
        value: value.map_err(|error| format!("is not JSON: {error}")),
    });
    numbered.collect()
}

fn yaml(text: &str) -> Vec<Document> {
    let pieces = split(text)
        .into_iter()
        .filter(|(_, piece)| has_content(piece));
    let numbered = pieces.enumerate().map(|(index, (line, piece))| Document {
        place: Place {
            document: index + 1,
            line: Some(line),
            item: None,
        },
        value: parse_yaml(&piece).map_err(|error| format!("is not YAML: {error}")),
    });
    numbered.collect()
}

/// Pieces between separator lines, each with the number of its first line.
fn split(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pieces = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = separator(line) {
            pieces.push((index + 1, rest.to_owned()));
        } else if let Some((_, piece)) = pieces.last_mut() {
            piece.push_str(line);
        }
        if let Some((_, piece)) = pieces.last_mut() {
            piece.push('\n');
        }
    }
    pieces
}

/// What stands behind `---` on its line; `None`: the line is no separator.
fn separator(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---")?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}

/// Not only white space, comments, directives and end marks.
fn has_content(piece: &str) -> bool {
    let mut lines = piece.lines().map(str::trim);
    lines.any(|line| !line.is_empty() && !line.starts_with(['#', '%']) && line != "...")
}

fn parse_yaml(piece: &str) -> Result<Value, serde_yaml_ng::Error> {
    let mut value =
        serde_yaml_ng::Value::deserialize(serde_yaml_ng::Deserializer::from_str(piece))?;
    value.apply_merge()?;
    serde_yaml_ng::from_value(value)
}

/// The items of a list (`List`, `ServiceList`, ...), or the document itself.
fn unfold(document: Document) -> Vec<Document> {
    let Ok(Value::Object(object)) = &document.value else {
        return vec![document];
    };
    let kind = object.get("kind").and_then(Value::as_str);
    let item_kind = kind.and_then(|kind| kind.strip_suffix("List"));
    let (Some(item_kind), Some(Value::Array(items))) = (item_kind, object.get("items")) else {
        return vec![document];
    };
    let version = object.get("apiVersion");
    let items = items.iter().enumerate().map(|(index, item)| Document {
        place: Place {
            item: Some(index + 1),
            ..document.place.clone()
        },
        value: Ok(typed(item.clone(), version, item_kind)),
    });
    items.collect()
}

/// Items of a typed list need not repeat what they are.
fn typed(mut item: Value, version: Option<&Value>, kind: &str) -> Value {
    let (Value::Object(fields), false) = (&mut item, kind.is_empty()) else {
        return item;
    };
    fields.entry("kind").or_insert_with(|| kind.into());
    if let Some(version) = version {
        fields
            .entry("apiVersion")
            .or_insert_with(|| version.clone());
    }
    item
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(document: usize, line: usize, item: Option<usize>) -> Place {
        Place {
            document,
            line: Some(line),
            item,
        }
    }

    #[test]
    fn documents_without_content_do_not_count() {
        let text = "# about\n---\n---\na: 1\n--- # two\nb: 2\n...\n---\n# end\n";
        let found = documents(text, false);
        let expected = [
            Document {
                place: place(1, 3, None),
                value: Ok(json!({"a": 1})),
            },
            Document {
                place: place(2, 5, None),
                value: Ok(json!({"b": 2})),
            },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_document_that_is_no_yaml_leaves_the_others() {
        let found = documents("a: 1\n---\nb: [1\n---\nc: 3\n", false);
        let values: Vec<_> = found.iter().map(|d| d.value.clone().ok()).collect();
        assert_eq!(values, [Some(json!({"a": 1})), None, Some(json!({"c": 3}))]);
        assert_eq!(found[1].place, place(2, 2, None));
    }

    #[test]
    fn a_dashed_line_inside_a_text_does_not_end_the_document() {
        let found = documents("a: |\n  ---\n  x\nb: ---x\n", false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].value, Ok(json!({"a": "---\nx\n", "b": "---x"})));
    }

    #[test]
    fn items_of_a_typed_list_get_its_type() {
        let text =
            "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n- kind: Node\n";
        let found = documents(text, false);
        let expected = [
            Document {
                place: place(1, 1, Some(1)),
                value: Ok(
                    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}),
                ),
            },
            Document {
                place: place(1, 1, Some(2)),
                value: Ok(json!({"apiVersion": "v1", "kind": "Node"})),
            },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        let found = documents("a: &x {p: 1}\nb: {<<: *x, q: 2}\n", false);
        assert_eq!(
            found[0].value,
            Ok(json!({"a": {"p": 1}, "b": {"p": 1, "q": 2}}))
        );
    }

    #[test]
    fn json_documents_may_follow_each_other() {
        let found = documents("{\"a\":\t1}\n{\"b\": 2} x", true);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].value, Ok(json!({"b": 2})));
        assert!(found[2].value.is_err());
    }
}
