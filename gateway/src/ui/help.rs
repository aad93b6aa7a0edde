//! The guide: Markdown of `docs/guide`, which stands beside the code and is built in, rendered once.

use super::{Fault, Shell, Visitor};
use crate::api::Problem;
use crate::web::Web;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{PreEscaped, html};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// One part of the guide.
struct Part {
    word: &'static str,
    texts: [&'static str; 2],
}

/// Parts of the guide, by who reads them.
static PARTS: [Part; 4] = [
    Part {
        word: "branch",
        texts: [include_str!("../../../docs/guide/en/branch.md"), include_str!("../../../docs/guide/zh/branch.md")],
    },
    Part {
        word: "operator",
        texts: [include_str!("../../../docs/guide/en/operator.md"), include_str!("../../../docs/guide/zh/operator.md")],
    },
    Part {
        word: "noc",
        texts: [include_str!("../../../docs/guide/en/noc.md"), include_str!("../../../docs/guide/zh/noc.md")],
    },
    Part {
        word: "targets",
        texts: [include_str!("../../../docs/guide/en/targets.md"), include_str!("../../../docs/guide/zh/targets.md")],
    },
];

/// A part as it is shown.
struct Rendered {
    title: String,
    body: String,
    /// Anchor and text of each heading of the second level.
    sections: Vec<(String, String)>,
}

static RENDERED: LazyLock<HashMap<(&'static str, &'static str), Rendered>> = LazyLock::new(|| {
    let all = PARTS.iter().flat_map(|part| Language::ALL.map(|language| (part, language)));
    all.map(|(part, language)| {
        let [english, chinese] = part.texts;
        ((part.word, language.code()), render(language.of(english, chinese)))
    })
    .collect()
});

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/help", get(index)).route("/help/{part}", get(show))
}

async fn index(State(_web): State<Arc<Web>>, visitor: Visitor) -> Response {
    let (language, title) = (visitor.language, visitor.language.of("Help", "帮助"));
    let content = html! {
        h1 { (title) }
        div.three {
            @for part in &PARTS {
                @if let Some(rendered) = RENDERED.get(&(part.word, language.code())) {
                    section.card {
                        h2 { a href={ "/help/" (part.word) } { (rendered.title) } }
                        ul { @for (anchor, text) in &rendered.sections { li { a href={ "/help/" (part.word) "#" (anchor) } { (text) } } } }
                    }
                }
            }
        }
        p.small.soft { (language.of("For programs: ", "供程序使用：")) a href="/api/v1/openapi.json" { (language.of("the description of the API (OpenAPI)", "API 说明（OpenAPI）")) } }
    };
    Shell { visitor: &visitor, title, place: "/help", follows: None, content }.render().into_response()
}

async fn show(State(_web): State<Arc<Web>>, visitor: Visitor, Path(word): Path<String>) -> Result<Response, Fault> {
    let language = visitor.language;
    let known =
        PARTS.iter().find(|part| part.word == word).and_then(|part| RENDERED.get(&(part.word, language.code())));
    let Some(rendered) = known else {
        let detail = language.of("The guide has no such part.", "手册中没有这一部分。");
        return Err(visitor.fault(Problem::missing(detail)));
    };
    let content = html! {
        div.two {
            article.card.prose { h1 { (rendered.title) } (PreEscaped(&rendered.body)) }
            nav.card.noprint aria-label=(language.of("Sections", "章节")) {
                ul.history { @for (anchor, text) in &rendered.sections { li { a href={ "#" (anchor) } { (text) } } } }
                p { a href="/help" { (language.of("The whole guide", "全部手册")) } }
            }
        }
    };
    Ok(Shell { visitor: &visitor, title: &rendered.title, place: "/help", follows: None, content }
        .render()
        .into_response())
}

/// The section that helps with a page; `None`: the page is the guide itself, or says all there is.
pub(super) fn section(place: &str, follows: Option<&str>) -> Option<&'static str> {
    Some(match (place, follows) {
        ("/", Some("")) => "/help/noc#fleet",
        ("/", Some(_)) => "/help/noc#site",
        ("/", None) => "/help/operator#add-site",
        ("/schedule", _) => "/help/operator#schedule",
        ("/quotas", _) => "/help/noc#quotas",
        ("/grants", _) => "/help/noc#grants",
        ("/reports", _) => "/help/operator#report",
        ("/targets", _) => "/help/targets#ask",
        ("/versions", _) => "/help/operator#versions",
        ("/exports", _) => "/help/targets#exports",
        ("/domains", _) => "/help/targets#domains",
        ("/approvals", _) => "/help/operator#approvals",
        ("/retention", _) => "/help/operator#retention",
        ("/jobs", _) => "/help/noc#jobs",
        ("/audit", _) => "/help/operator#audit",
        ("/users" | "/me", _) => "/help/operator#users",
        ("/settings", _) => "/help/operator#settings",
        _ => return None,
    })
}

/// Markdown as markup. `<a id="x"></a>` before a heading names it, the same in both languages; any other markup in it is shown as text, and pictures by
/// what they are of.
fn render(text: &str) -> Rendered {
    let options = Options::ENABLE_TABLES;
    let (mut title, mut sections, mut events) = (String::new(), Vec::new(), Vec::new());
    let (mut anchor, mut heading, mut in_title, mut picture) = (None::<String>, None::<String>, false, 0usize);
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::Heading { level: pulldown_cmark::HeadingLevel::H1, .. }) => in_title = true,
            Event::End(TagEnd::Heading(pulldown_cmark::HeadingLevel::H1)) => in_title = false,
            Event::Text(text) if in_title => title += &text,
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                heading = Some(String::new());
                let id = anchor.take().map(CowStr::from);
                events.push(Event::Start(Tag::Heading { level, id: id.clone(), classes, attrs }));
                if level == pulldown_cmark::HeadingLevel::H2
                    && let Some(id) = id
                {
                    sections.push((id.to_string(), String::new()));
                }
            }
            Event::End(end @ TagEnd::Heading(level)) => {
                let said = heading.take().unwrap_or_default();
                if level == pulldown_cmark::HeadingLevel::H2
                    && let Some(last) = sections.last_mut().filter(|(_, text)| text.is_empty())
                {
                    last.1 = said;
                }
                events.push(Event::End(end));
            }
            Event::Html(raw) | Event::InlineHtml(raw) => match anchor_of(&raw) {
                Some(named) => anchor = Some(named),
                None if raw.trim() == "</a>" || raw.trim().is_empty() => {}
                None => events.push(Event::Text(raw)),
            },
            Event::Start(Tag::Image { .. }) => picture += 1,
            Event::End(TagEnd::Image) => picture = picture.saturating_sub(1),
            // What a picture shows, said.
            Event::Text(text) if picture > 0 => events.push(Event::Text(format!("[{text}]").into())),
            Event::Text(text) => {
                if let Some(heading) = &mut heading {
                    *heading += &text;
                }
                events.push(Event::Text(text));
            }
            Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    *heading += &text;
                }
                events.push(Event::Code(text));
            }
            other => events.push(other),
        }
    }
    let mut body = String::new();
    pulldown_cmark::html::push_html(&mut body, events.into_iter());
    // Wide tables scroll by themselves on narrow screens.
    let body =
        body.replace("<table>", "<div class=\"scroll\" tabindex=\"0\"><table>").replace("</table>", "</table></div>");
    Rendered { title, body, sections }
}

/// The name in `<a id="name"></a>`.
fn anchor_of(raw: &str) -> Option<String> {
    let rest = raw.trim().strip_prefix("<a id=\"")?;
    let (name, rest) = rest.split_once('"')?;
    let plain =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (plain && matches!(rest, ">" | "></a>")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(word: &str, language: Language) -> &'static Rendered {
        let part = PARTS.iter().find(|part| part.word == word).unwrap();
        &RENDERED[&(part.word, language.code())]
    }

    #[test]
    fn both_languages_have_the_same_sections_and_each_page_finds_its_own() {
        for part in &PARTS {
            let [english, chinese] = Language::ALL.map(|language| of(part.word, language));
            let anchors =
                |rendered: &Rendered| rendered.sections.iter().map(|(anchor, _)| anchor.clone()).collect::<Vec<_>>();
            assert!(!english.title.is_empty() && !english.sections.is_empty(), "{}", part.word);
            assert_eq!(anchors(english), anchors(chinese), "{}", part.word);
            assert_ne!(english.title, chinese.title);
        }
        let places = [
            "/schedule",
            "/quotas",
            "/grants",
            "/reports",
            "/targets",
            "/approvals",
            "/jobs",
            "/audit",
            "/users",
            "/me",
            "/settings",
        ];
        let of_fleet = [("/", Some("")), ("/", Some("bank/b1")), ("/", None)];
        for (place, follows) in places.into_iter().map(|place| (place, None)).chain(of_fleet) {
            let target = section(place, follows).unwrap();
            let (word, anchor) = target.strip_prefix("/help/").unwrap().split_once('#').unwrap();
            let known = of(word, Language::English).body.contains(&format!("id=\"{anchor}\""));
            assert!(known, "{target} leads nowhere");
        }
        assert_eq!(section("/help", None), None);
    }

    #[test]
    fn markup_in_the_guide_is_text_and_pictures_are_said() {
        let rendered = render(
            "# T\n\n<a id=\"one\"></a>\n\n## One `x`\n\n<script>alert(1)</script>\n\n![A gauge](images/a.png) a <b onclick=\"x\">b</b>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        );
        assert_eq!(rendered.title, "T");
        assert_eq!(rendered.sections, [("one".to_owned(), "One x".to_owned())]);
        assert!(rendered.body.contains("<h2 id=\"one\">One <code>x</code></h2>"), "{}", rendered.body);
        assert!(
            !rendered.body.contains("<script") && !rendered.body.contains("<b ") && !rendered.body.contains("<img"),
            "{}",
            rendered.body
        );
        assert!(
            rendered.body.contains("[A gauge]")
                && rendered.body.contains("<div class=\"scroll\" tabindex=\"0\"><table>")
        );
    }
}
