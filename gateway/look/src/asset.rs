//! Style, scripts and icon: served under a name that changes with their bytes, so that they may be kept for ever.

use data_encoding::HEXLOWER;

/// A file that pages refer to, compiled in.
#[derive(Clone, Debug)]
pub struct Asset {
    /// Where it is served: `/assets/style-0123456789ab.css`.
    pub path: String,
    /// Its media type.
    pub media: &'static str,
    /// Its bytes.
    pub body: &'static str,
}

/// How an asset may be kept: it never changes under its name.
pub const KEEP: &str = "public, max-age=31536000, immutable";

impl Asset {
    /// An asset of this name, as `style.css`; the ending says what it is.
    pub fn new(name: &str, body: &'static str) -> Asset {
        let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
        let media = match ending {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        let hash = HEXLOWER.encode(&blake3::hash(body.as_bytes()).as_bytes()[..6]);
        Asset { path: format!("/assets/{stem}-{hash}.{ending}"), media, body }
    }

    /// The style of all pages.
    pub fn style() -> Asset {
        Asset::new("style.css", include_str!("style.css"))
    }

    /// The icon of all pages.
    pub fn icon() -> Asset {
        Asset::new("icon.svg", include_str!("icon.svg"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_text_has_another_name() {
        let (one, other) = (Asset::new("a.css", "x"), Asset::new("a.css", "y"));
        assert!(one.path.starts_with("/assets/a-") && one.path.ends_with(".css") && one.path != other.path);
        assert_eq!(one.media, "text/css; charset=utf-8");
    }
}
