//! English and Simplified Chinese. Every text stands beside its translation, so that neither can be forgotten.

use serde::{Deserialize, Serialize};

/// In which language a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// Simplified Chinese.
    #[serde(rename = "zh")]
    Chinese,
}

impl Language {
    /// Both.
    pub const ALL: [Language; 2] = [Language::English, Language::Chinese];

    /// One of two texts that say the same.
    pub fn of<T>(self, english: T, chinese: T) -> T {
        match self {
            Language::English => english,
            Language::Chinese => chinese,
        }
    }

    /// As a cookie or a form keeps it.
    pub fn code(self) -> &'static str {
        self.of("en", "zh")
    }

    /// As the `lang` attribute of a document says it.
    pub fn tag(self) -> &'static str {
        self.of("en", "zh-Hans")
    }

    /// What it calls itself.
    pub fn name(self) -> &'static str {
        self.of("English", "简体中文")
    }

    /// The language of a code.
    pub fn from_code(code: &str) -> Option<Language> {
        Language::ALL.into_iter().find(|language| language.code() == code)
    }

    /// What a person chose, else what the browser asks for (`Accept-Language`), else English.
    ///
    /// Of the browser's list the first language that there is counts; weights are in order in what browsers send.
    pub fn choose(chosen: Option<&str>, accepted: Option<&str>) -> Language {
        let named = |tag: &str| match tag.trim().get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("zh") => Some(Language::Chinese),
            Some("en") => Some(Language::English),
            _ => None,
        };
        let accepted = || accepted?.split(',').find_map(named);
        chosen.and_then(Language::from_code).or_else(accepted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_chose_comes_before_what_the_browser_asks_for() {
        assert_eq!(Language::choose(Some("zh"), Some("en-GB,en;q=0.9")), Language::Chinese);
        assert_eq!(Language::choose(Some("fr"), Some("de, zh-CN;q=0.8, en;q=0.7")), Language::Chinese);
        assert_eq!(Language::choose(None, Some("zh")), Language::Chinese);
        assert_eq!(Language::choose(None, Some("é")), Language::English, "no boundary of a character is cut");
        assert_eq!(Language::choose(None, None), Language::English);
    }
}
