//! The two languages of a console. Each text stands in both where it is used, so that neither is forgotten.

/// What a console speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    #[value(name = "en")]
    English,
    #[value(name = "zh")]
    Chinese,
}

impl Language {
    /// The text of this language.
    pub(crate) fn of<T>(self, english: T, chinese: T) -> T {
        match self {
            Language::English => english,
            Language::Chinese => chinese,
        }
    }

    pub(crate) fn other(self) -> Language {
        self.of(Language::Chinese, Language::English)
    }
}

/// A text in both languages.
pub(crate) type Both = (&'static str, &'static str);

/// How many cells of a screen a text takes: Chinese characters take two.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|char| if is_wide(char) { 2 } else { 1 }).sum()
}

/// CJK and full-width forms, as far as our own texts and names of sites have them.
fn is_wide(char: char) -> bool {
    matches!(u32::from(char), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x20000..=0x3fffd)
}

/// A text in lines of at most `most` cells, broken at spaces, and anywhere in a word that is wider than that.
pub(crate) fn fold(text: &str, most: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) <= most {
            line.push(' ');
        } else if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for char in word.chars() {
            if width(&line) + width(char.encode_utf8(&mut [0; 4])) > most {
                lines.push(std::mem::take(&mut line));
            }
            line.push(char);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_folded_at_spaces_and_chinese_anywhere() {
        assert_eq!(fold("the line is closed", 11), ["the line is", "closed"]);
        assert_eq!(fold("网络连接正常", 8), ["网络连接", "正常"]);
        assert_eq!(fold("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(fold("ab abcdefgh", 5), ["ab", "abcde", "fgh"]);
        assert_eq!(fold("", 5), [""]);
    }

    proptest! {
        #[test]
        fn folding_loses_nothing_and_no_line_is_too_wide(text in "[a-z网络 ]{0,60}", most in 2usize..20) {
            let lines = fold(&text, most);
            prop_assert!(lines.iter().all(|line| width(line) <= most), "{:?}", lines);
            prop_assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        }
    }
}
