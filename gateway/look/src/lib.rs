//! What the pages of edge and gateway have in common: one style, two languages, the same words and pictures for the same things.
//!
//! ```text
//!   language   Language         English and Simplified Chinese; every text stands beside its translation
//!   format     bytes, rate, …   figures for people
//!   strip      Strip            what a line may be used for and was used for, as a picture
//!   page       Page             the document around the content: head, style, skip link
//!   asset      Asset            style, scripts and icon, served under a name that changes with their bytes
//!   serve      serve            the server of pages: TLS, bounds, headers that browsers keep to
//! ```
//!
//! Everything is rendered by `maud`, which escapes what is put in; nothing here builds markup out of text.

pub mod asset;
pub mod format;
pub mod language;
pub mod page;
pub mod serve;
pub mod strip;

pub use asset::Asset;
pub use language::Language;
pub use page::Page;
pub use strip::{Span, Strip};
