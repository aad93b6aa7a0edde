//! The page itself: markup of facts. One column, big type; it works without its script, which only keeps the parts marked `data-live` fresh.

mod forms;
mod parts;
mod restores;

use super::facts::Facts;
use super::say::{Notice, Tone};
use super::{App, access};
use look::{Asset, Language, Page};
use maud::{Markup, html};

/// Style, icon and script of the page.
pub(crate) fn assets() -> Vec<Asset> {
    vec![
        Asset::style(),
        Asset::new("edge.css", include_str!("view/edge.css")),
        Asset::icon(),
        Asset::new("edge.js", include_str!("view/edge.js")),
    ]
}

/// A page of somebody who is in.
pub(crate) struct Inside<'a> {
    /// Style, icon and script.
    pub(crate) assets: &'a [Asset],
    /// The language.
    pub(crate) language: Language,
    /// What every form carries.
    pub(crate) csrf: &'a str,
    /// What is to be said.
    pub(crate) notice: Option<&'a Notice>,
}

impl Inside<'_> {
    /// The page of an edge, enrolled or not.
    pub(crate) fn render(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let site = facts.status.site.as_deref();
        let enrolled = site.is_some();
        let title = site.unwrap_or(language.of("New box", "新设备"));
        let content = html! {
            div.edge data-page=(if enrolled { "edge" } else { "new" }) {
                p #stale .note.warn.hidden role="status" {
                    (language.of("This box does not answer just now; what is shown is a little old.", "设备暂无应答，所示内容可能已过时。"))
                }
                @if enrolled { (self.enrolled(facts)) } @else { (self.new_box(facts)) }
            }
        };
        document(self.assets, language, title, Some(self), content)
    }

    fn enrolled(&self, facts: &Facts) -> Markup {
        html! {
            (self.now(facts))
            @if facts.status.volumes.is_empty() { (self.first_steps(facts)) }
            (self.ahead(facts))
            (self.bend(facts))
            @if !facts.status.volumes.is_empty() { (self.volumes(facts)) }
            (self.restores(facts))
            (self.line(facts))
            (self.time(facts))
            (self.policy(facts))
            (self.own(facts))
            (self.diagnostics(facts))
        }
    }

    fn new_box(&self, facts: &Facts) -> Markup {
        html! {
            (self.enrol(facts, true))
            (self.diagnostics(facts))
        }
    }

    /// What is to be said at this part, if anything is.
    fn notice_at(&self, part: &str) -> Markup {
        html! {
            @if let Some(notice) = self.notice.filter(|notice| notice.at == part) {
                div.note.(notice.tone.class()) role="status" {
                    p { (notice.text.of(self.language)) }
                    @if let Some(detail) = &notice.detail { (detail_of(detail)) }
                }
            }
        }
    }

    /// The hidden field of every form.
    fn csrf(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.csrf); }
    }
}

/// What the program itself says, for whoever can use it.
fn detail_of(text: &str) -> Markup {
    html! { p.small.soft lang="en" { (text) } }
}

fn chip(tone: Tone, text: &str) -> Markup {
    html! { span.chip.(tone.class()) { (text) } }
}

fn document(assets: &[Asset], language: Language, title: &str, inside: Option<&Inside<'_>>, content: Markup) -> Markup {
    let other = language.of(Language::Chinese, Language::English);
    let banner = html! {
        header.banner {
            div.in {
                a.brand href="/" { "Sluice" }
                @if inside.is_some() { span.site { (title) } }
                div.who {
                    a href=(look::serve::language_path(other, "/")) lang=(other.tag()) hreflang=(other.tag()) { (other.name()) }
                    @if let Some(inside) = inside {
                        form method="post" action="/logout" {
                            (inside.csrf())
                            button.quiet type="submit" { (language.of("Log out", "退出")) }
                        }
                    }
                }
            }
        }
    };
    Page { language, title, assets, banner, content }.render()
}

/// The page of somebody who is not in. `wait`: so many seconds must pass before the next try; `wrong`: the last PIN was.
pub(crate) fn login(assets: &[Asset], language: Language, wait: Option<u64>, wrong: bool) -> Markup {
    let content = html! {
        div.edge data-page="login" {
            section.card {
                h1 { (language.of("Log in at this box", "登录本设备")) }
                p { (language.of(
                    "The PIN has eight digits. Whoever is at the console of this box makes one with:",
                    "PIN 码为八位数字。可在本设备的控制台上用以下命令生成：",
                )) }
                pre { "sluice-edge page --new-pin" }
                @match wait {
                    Some(seconds) => p.problem role="alert" { (language.of(
                        format!("There were too many wrong PINs. Try again in {seconds} s, or make a new PIN at the console."),
                        format!("PIN 码错误次数过多。请在 {seconds} 秒后重试，或在控制台上生成新的 PIN 码。"),
                    )) },
                    None if wrong => p.problem role="alert" { (language.of("That is not the PIN.", "PIN 码错误。")) },
                    None => {},
                }
                form method="post" action="/login" {
                    div.field {
                        label for="pin" { "PIN" }
                        input #pin name="pin" type="password" inputmode="numeric" autocomplete="off" maxlength="20" required autofocus;
                    }
                    button type="submit" { (language.of("Log in", "登录")) }
                }
                p.hint { (language.of(
                    format!("Half an hour without a click logs you out ({} min).", access::IDLE.as_secs() / 60),
                    format!("{} 分钟无操作将自动退出。", access::IDLE.as_secs() / 60),
                )) }
            }
        }
    };
    document(assets, language, language.of("Log in", "登录"), None, content)
}

/// The page of a box that has no PIN yet.
pub(crate) fn without_pin(assets: &[Asset], language: Language, trouble: Option<&str>) -> Markup {
    let content = html! {
        div.edge data-page="login" {
            section.card {
                h1 { (language.of("This box has no PIN yet", "本设备尚未设置 PIN 码")) }
                p { (language.of(
                    "This page shows nothing without a PIN. Make one at the console of this box, then load this page again:",
                    "没有 PIN 码时本页面不显示任何内容。请在本设备的控制台上生成 PIN 码，然后刷新本页面：",
                )) }
                pre { "sluice-edge page" }
                @if let Some(trouble) = trouble { p.problem role="alert" lang="en" { (trouble) } }
                p { a.button href="/" { (language.of("Load again", "刷新")) } }
            }
        }
    };
    document(assets, language, language.of("No PIN yet", "尚未设置 PIN 码"), None, content)
}

/// A refusal, in words.
pub(crate) fn refusal(app: &App, language: Language, english: &str, chinese: &str) -> Markup {
    let content = html! {
        div.edge data-page="login" {
            section.card {
                h1 { (language.of(english, chinese)) }
                p { a.button href="/" { (language.of("Back to the page", "返回页面")) } }
            }
        }
    };
    document(&app.assets, language, language.of("Not done", "未执行"), None, content)
}
