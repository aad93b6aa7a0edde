//! What services answer as XML, and what libvirt is told.
//!
//! Limits come first: the client cuts off what is too long, and documents with a type definition (the way to entities that grow) are refused.

use crate::error::TargetError;
use roxmltree::{Document, Node, ParsingOptions};

/// Elements, texts and attributes of one answer at most: a page of 1,000 things with their tags has some 60,000.
const MOST_NODES: u32 = 1 << 20;

/// Reads an answer and takes from it what `take` wants. `None` from `take`: something is missing.
pub(crate) fn read<T>(
    service: &str,
    asked: &str,
    body: &[u8],
    take: impl FnOnce(Node<'_, '_>) -> Option<T>,
) -> Result<T, TargetError> {
    let wrong = |said: String| TargetError::Answer { service: service.to_owned(), asked: asked.to_owned(), said };
    let text = std::str::from_utf8(body).map_err(|_| wrong("XML that is not UTF-8".into()))?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start_matches('\u{feff}').trim_start(), options)
        .map_err(|error| wrong(format!("XML with a fault: {error}")))?;
    let root = document.root_element();
    take(root).ok_or_else(|| wrong(format!("`{}` without what it has to hold", root.tag_name().name())))
}

/// A text as it stands in a document, between elements or in an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The code of an error, in the form of S3 (`Error/Code`) or of EC2 (`Response/Errors/Error/Code`).
pub(crate) fn error_code(body: &[u8]) -> Option<String> {
    read("", "", body, |root| {
        let error = root.descendants().find(|node| node.tag_name().name() == "Error")?;
        text(error, "Code").map(str::to_owned)
    })
    .ok()
}

/// Children with this name, whatever their namespace: stores differ in it.
pub(crate) fn children<'a, 'input: 'a>(
    of: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    of.children().filter(move |node| node.tag_name().name() == name)
}

/// The text of the first child with this name.
pub(crate) fn text<'a>(of: Node<'a, '_>, name: &'static str) -> Option<&'a str> {
    children(of, name).next().map(|node| node.text().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_reads_as_it_was() {
        let text = "<&\"'> 深圳 a]]>b";
        let document = format!("<a b=\"{0}\">{0}</a>", escape(text));
        let read =
            read("", "", document.as_bytes(), |root| Some((root.attribute("b")?.to_owned(), root.text()?.to_owned())));
        assert_eq!(read.unwrap(), (text.to_owned(), text.to_owned()));
    }

    #[test]
    fn errors_of_both_kinds_are_found_and_garbage_is_refused() {
        let s3 = br#"<?xml version="1.0"?><Error><Code>NoSuchUpload</Code><Message>x</Message></Error>"#;
        assert_eq!(error_code(s3).as_deref(), Some("NoSuchUpload"));
        let ec2 = b"\n<Response><Errors><Error><Code>InvalidSnapshot.NotFound</Code></Error></Errors></Response>";
        assert_eq!(error_code(ec2).as_deref(), Some("InvalidSnapshot.NotFound"));
        for garbage in [&b""[..], b"\xff", b"<a><b></a>", b"{}", &b"<a>".repeat(100_000)] {
            assert_eq!(error_code(garbage), None);
        }
        let bomb = br#"<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><Error><Code>&d;</Code></Error>"#;
        assert_eq!(error_code(bomb), None);
    }
}
