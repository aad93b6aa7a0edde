//! XML as services answer it: elements and their text, read into a small tree, within limits. No attributes, no namespaces, no entities but the five of XML, nothing is fetched.

use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// Elements inside each other at most; answers of services have some eight.
const DEEPEST: usize = 32;

/// One element.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name, with its prefix.
    pub(crate) name: String,
    /// Its own text, unescaped, without that of its children.
    pub(crate) text: String,
    /// What is in it.
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The first child of a name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of a name.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        Some(self.child(name)?.text.as_str())
    }

    /// All children of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// The document's element. The caller limits how long the text is.
///
/// # Errors
/// What is wrong with it, in a line.
pub(crate) fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut open: Vec<Element> = vec![Element::default()];
    loop {
        let here = open.last_mut().ok_or("an element is closed that was not opened")?;
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                open.push(element(&start));
                if open.len() > DEEPEST {
                    return Err(format!("more than {DEEPEST} elements inside each other"));
                }
            }
            Event::Empty(start) => here.children.push(element(&start)),
            Event::End(_) => {
                let done = open.pop().ok_or("an element is closed that was not opened")?;
                open.last_mut().ok_or("an element is closed that was not opened")?.children.push(done);
            }
            Event::Text(text) => here.text.push_str(&text.xml10_content()),
            Event::CData(text) => here.text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                Some(character) => here.text.push(character),
                None => here.text.push_str(
                    quick_xml::escape::resolve_predefined_entity(&reference.xml10_content())
                        .ok_or("an entity that XML does not have")?,
                ),
            },
            Event::DocType(_) => return Err("a document type, which nobody needs".into()),
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(mut all), true) if all.children.len() == 1 => Ok(all.children.remove(0)),
        _ => Err("not exactly one whole document".into()),
    }
}

fn element(start: &BytesStart<'_>) -> Element {
    Element { name: start.name().as_ref().to_owned(), ..Element::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_with_its_entities() {
        let read = parse(
            "\u{feff}<?xml version=\"1.0\"?><a x='1'><b>c &lt;&#65;&gt; d</b><b/><!-- e --><c><![CDATA[<f>]]></c></a>",
        );
        let read = read.unwrap();
        assert_eq!(read.name, "a");
        assert_eq!(read.all("b").map(|b| b.text.as_str()).collect::<Vec<_>>(), ["c <A> d", ""]);
        assert_eq!(read.text_of("c"), Some("<f>"));
    }

    #[test]
    fn what_is_no_whole_document_is_refused() {
        for wrong in ["", "text", "<a>", "<a></b>", "<a/><b/>", "</a>", "<a>&x;</a>", "<!DOCTYPE a><a/>"] {
            assert!(parse(wrong).is_err(), "{wrong}: {:?}", parse(wrong));
        }
        let deep = |depth: usize| parse(&("<a>".repeat(depth) + &"</a>".repeat(depth)));
        assert!(deep(DEEPEST - 1).is_ok());
        assert_eq!(deep(100_000).unwrap_err(), "more than 32 elements inside each other");
    }
}
