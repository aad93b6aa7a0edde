//! The document around the content.

use crate::{Asset, Language};
use maud::{DOCTYPE, Markup, html};

/// A page. Nothing in it is loaded from elsewhere, and it has neither inline styles nor inline scripts, so that the strictest
/// content policy ([`CONTENT_POLICY`]) holds.
pub struct Page<'a> {
    /// Its language.
    pub language: Language,
    /// What its tab says; the product's name is added.
    pub title: &'a str,
    /// Style, icon and scripts.
    pub assets: &'a [Asset],
    /// What stands above the content: name, navigation.
    pub banner: Markup,
    /// The content.
    pub content: Markup,
}

/// `Content-Security-Policy` of all pages: only what this server serves, no frames, no inline code.
pub const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

impl Page<'_> {
    /// The whole document.
    pub fn render(self) -> Markup {
        let of = |ending: &'static str| self.assets.iter().filter(move |asset| asset.path.ends_with(ending));
        html! {
            (DOCTYPE)
            html lang=(self.language.tag()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Sluice" }
                    @for style in of(".css") { link rel="stylesheet" href=(style.path); }
                    @for icon in of(".svg") { link rel="icon" type="image/svg+xml" href=(icon.path); }
                    @for script in of(".js") { script src=(script.path) defer {} }
                }
                body {
                    a.skip href="#content" { (self.language.of("Skip to the content", "跳到正文")) }
                    (self.banner)
                    main #content tabindex="-1" { (self.content) }
                }
            }
        }
    }
}
