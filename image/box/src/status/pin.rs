//! The PIN of the page: who stands in front of a box that is nobody's yet takes it into use with it. Made once for all consoles of a start.

use crate::files::{self, words_of};
use crate::run::{Place, RunError, succeed};
use std::fs;
use std::time::Duration;

/// What consoles share; systemd makes it, for root only.
pub(crate) const FOLDER: &str = "/run/sluice-console";
const WITHIN: Duration = Duration::from_secs(20);

/// The PIN of this start; makes it if there is none. Nothing while another console makes it.
pub(super) fn pin(place: &Place) -> Option<String> {
    let file = place.path(FOLDER).join("pin");
    if let Some(pin) = words_of(&file, 64) {
        return Some(pin);
    }
    let lock = fs::File::create(place.path(FOLDER).join("pin.lock")).ok()?;
    lock.try_lock().ok()?;
    // It may have been made between the look and the lock.
    words_of(&file, 64).or_else(|| new_pin(place).ok().map(|page| page.pin))
}

/// What the daemon says of its page, after it made a new PIN.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) pin: String,
    /// SHA-256 of the page's certificate.
    pub(crate) fingerprint: Option<String>,
}

/// Makes a new PIN; the old one ends, and so do sessions at the page.
pub(crate) fn new_pin(place: &Place) -> Result<Page, RunError> {
    let said = succeed(place.edge().args(["page", "--new-pin"]), WITHIN)?;
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim);
    let pin: String =
        value("PIN").unwrap_or_default().chars().take_while(|char| char.is_ascii_digit() || *char == ' ').collect();
    let failed = || RunError::Failed { program: "sluice-edge".into(), said: "page --new-pin named no PIN".into() };
    let pin = Some(pin.trim().to_owned()).filter(|pin| !pin.is_empty()).ok_or_else(failed)?;
    // Only so that the other console shows the same; if that fails, it makes its own.
    let _ = files::put(&place.path(FOLDER).join("pin"), pin.as_bytes(), 0o600, None);
    Ok(Page { pin, fingerprint: value("fingerprint").map(str::to_owned) })
}
