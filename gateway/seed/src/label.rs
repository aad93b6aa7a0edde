//! What is stuck onto a medium: for people, and for scanners. No secrets: a label is read by whoever carries it.

use crate::manifest::Manifest;
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

/// What the QR code says, and a scanner reads: `sluice-seed:ID:MEDIUM`.
pub fn code(manifest: &Manifest) -> String {
    format!("sluice-seed:{}:{}", manifest.medium.shipment, manifest.medium.number)
}

fn lines(manifest: &Manifest) -> Vec<String> {
    let number = manifest.medium.number;
    vec![
        format!("Sluice seed {}", manifest.medium.shipment),
        format!("Site {}", manifest.site_name),
        match manifest.last {
            true => format!("Medium {number} of {number}"),
            false => format!("Medium {number}, more follow"),
        },
        format!("{} parts, {} bytes", manifest.parts.len(), manifest.bytes()),
        "Encrypted for the gateway. Do not format.".into(),
    ]
}

/// The label as text.
pub fn text(manifest: &Manifest) -> String {
    let mut text = lines(manifest).join("\n");
    text.push_str(&format!("\n{}\n", code(manifest)));
    text
}

/// The label as a picture, 90 mm wide.
pub fn picture(manifest: &Manifest) -> String {
    const ROW: usize = 7;
    // Medium correction: a label is scratched. The text is far below what a code holds.
    let code = QrCode::with_error_correction_level(code(manifest), EcLevel::M).expect("the text fits a QR code");
    let drawn = code.render::<svg::Color<'_>>().min_dimensions(160, 160).build();
    // The code comes as a document of its own; within another one it is placed by its outermost element.
    let drawn = drawn.split_once("?>").map_or(drawn.as_str(), |(_, svg)| svg);
    let row = |(at, line): (usize, String)| {
        let (y, size) = (10 + at * ROW, if at == 0 { 3 } else { 4 });
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!("<text x=\"4\" y=\"{y}\" font-family=\"sans-serif\" font-size=\"{size}\">{line}</text>")
    };
    let rows: String = lines(manifest).into_iter().enumerate().map(row).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90mm\" height=\"80mm\" viewBox=\"0 0 90 80\">{rows}<g transform=\"translate(4 44) scale(0.2)\">{drawn}</g></svg>\n"
    )
}
