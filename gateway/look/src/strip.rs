//! What a line may be used for and what it was used for, as one small picture: the schedule as a shade, what was sent as an area, a mark for now.
//!
//! Drawn in as few bytes as can be: a page shows five hundred of them.

use maud::{Markup, PreEscaped, html};
use std::fmt::Write;

/// Height of the picture in its own units; the width is one unit for each step.
const HEIGHT: u32 = 20;

/// A part of the strip in which the schedule says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First step.
    pub from: u32,
    /// First step after it.
    pub to: u32,
    /// What is allowed then, in thousandths of the full height; 0: closed.
    pub height: u16,
    /// A blackout, a pause or a hold: closed for a reason that people should see.
    pub barred: bool,
}

/// A strip of so many steps.
#[derive(Clone, Debug, Default)]
pub struct Strip {
    /// Steps from left to right; any length of time.
    pub steps: u32,
    /// What is allowed; ascending, closed parts may be left out.
    pub spans: Vec<Span>,
    /// What was sent in each step, in thousandths of the full height; may be shorter than the strip.
    pub sent: Vec<u16>,
    /// What is expected to be sent, likewise, from step [`Strip::now`] on.
    pub forecast: Vec<u16>,
    /// The step that is now.
    pub now: Option<u32>,
}

impl Strip {
    /// The picture. It says nothing that the text beside it does not say, so it is hidden from screen readers.
    pub fn draw(&self) -> Markup {
        let (open, barred) = (self.shade(false), self.shade(true));
        let sent = area(&self.sent, 0);
        let forecast = area(&self.forecast, self.now.unwrap_or(0));
        html! {
            svg.strip viewBox={ "0 0 " (self.steps) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
                (path("o", &open)) (path("x", &barred)) (path("f", &forecast)) (path("a", &sent))
                @if let Some(now) = self.now { path.n d={ "M" (now) " 0v" (HEIGHT) } {} }
            }
        }
    }

    fn shade(&self, barred: bool) -> String {
        let mut path = String::new();
        for span in self.spans.iter().filter(|span| span.barred == barred && span.to > span.from) {
            let height = if barred { HEIGHT } else { units(span.height) };
            if height > 0 {
                let width = span.to - span.from;
                let _ = write!(path, "M{} {HEIGHT}v-{height}h{width}v{height}z", span.from);
            }
        }
        path
    }
}

fn path(class: &str, d: &str) -> Markup {
    html! { @if !d.is_empty() { path class=(PreEscaped(class)) d=(d) {} } }
}

/// Steps of these heights as one outline; what is 0 is left out.
fn area(heights: &[u16], begin: u32) -> String {
    let mut path = String::new();
    let mut level = 0u32;
    let mut run = 0u32;
    for (at, height) in heights.iter().map(|height| units(*height)).chain([0]).enumerate() {
        if height == level {
            run += 1;
            continue;
        }
        if level > 0 {
            let _ = write!(path, "h{run}");
        } else {
            let _ = write!(path, "M{} {HEIGHT}", begin + at as u32);
        }
        match height > level {
            true => drop(write!(path, "v-{}", height - level)),
            false => drop(write!(path, "v{}", level - height)),
        }
        (level, run) = (height, 1);
    }
    path
}

/// Something that is there is seen, however small.
fn units(mille: u16) -> u32 {
    match mille {
        0 => 0,
        mille => (u32::from(mille.min(1000)) * HEIGHT).div_ceil(1000).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_height_are_one_line() {
        assert_eq!(area(&[0, 500, 500, 100, 0, 0, 1000], 0), "M1 20v-10h2v8h1v2M6 20v-20h1v20");
        assert_eq!(area(&[], 0), "");
        assert_eq!(area(&[1], 7), "M7 20v-1h1v1", "a trace is seen");
    }

    #[test]
    fn the_picture_has_what_there_is_and_no_more() {
        let spans = vec![
            Span { from: 0, to: 4, height: 800, barred: false },
            Span { from: 4, to: 6, height: 0, barred: true },
            Span { from: 6, to: 9, height: 0, barred: false },
        ];
        let strip = Strip { steps: 96, spans, sent: vec![400], forecast: vec![], now: Some(48) };
        assert_eq!(
            strip.draw().into_string(),
            "<svg class=\"strip\" viewBox=\"0 0 96 20\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <path class=\"o\" d=\"M0 20v-16h4v16z\"></path><path class=\"x\" d=\"M4 20v-20h2v20z\"></path>\
             <path class=\"a\" d=\"M0 20v-8h1v8\"></path><path class=\"n\" d=\"M48 0v20\"></path></svg>"
        );
    }
}
