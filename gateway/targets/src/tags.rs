//! What a point is, as short texts: metadata of a volume, tags of a snapshot, headers of an object. The same names everywhere, so that whoever looks at
//! the cloud, years from now, can read what it holds without us.

use crate::target::{Image, Point, Work};
use dedupe::{ByteCount, Root, RootScheme, RunId, UnixMillis};

/// Of a volume.
const SITE: &str = "sluice-site";
const VOLUME: &str = "sluice-volume";
const TENANT: &str = "sluice-tenant";
pub(crate) const LINEAGE: &str = "sluice-lineage";
/// Of a generation.
pub(crate) const GENERATION: &str = "sluice-generation";
const NUMBER: &str = "sluice-number";
const CAPTURED: &str = "sluice-captured-ms";
const ROOT: &str = "sluice-root-blake3";
const SIZE: &str = "sluice-size";
const MADE: &str = "sluice-made-ms";
/// Of the run that made it.
pub(crate) const RUN: &str = "sluice-run";

/// What names a volume. Values are printable ASCII of 255 bytes at most.
pub fn of_image(image: &Image) -> Vec<(&'static str, String)> {
    vec![
        (TENANT, printable(&image.tenant)),
        (SITE, printable(&image.site)),
        (VOLUME, printable(&image.volume)),
        (LINEAGE, image.lineage.to_string()),
    ]
}

/// What names a point and whose it is.
pub fn of_point(image: &Image, point: &Point) -> Vec<(&'static str, String)> {
    let mut tags = of_image(image);
    tags.extend(of_generation(point));
    tags
}

/// What names a point.
pub(crate) fn of_generation(point: &Point) -> [(&'static str, String); 6] {
    [
        (GENERATION, point.generation.to_string()),
        (NUMBER, point.number.to_string()),
        (CAPTURED, point.captured.0.to_string()),
        (ROOT, point.root.to_string()),
        (SIZE, point.size.0.to_string()),
        (MADE, point.made.0.to_string()),
    ]
}

/// What names a run that is not finished.
pub fn of_work(work: &Work) -> Vec<(&'static str, String)> {
    let mut tags = of_image(&work.image);
    tags.extend([(RUN, work.run.to_string()), (GENERATION, work.generation.to_string())]);
    tags
}

/// The point that tags name; `None` when something is missing or is not what it should be: then it is none of ours.
pub fn point(id: &str, get: impl Fn(&str) -> Option<String>) -> Option<Point> {
    let number = |name| get(name)?.parse::<u64>().ok();
    let hash = data_encoding::HEXLOWER.decode(get(ROOT)?.as_bytes()).ok()?.try_into().ok()?;
    Some(Point {
        id: id.to_owned(),
        generation: get(GENERATION)?.parse().ok()?,
        number: number(NUMBER)?,
        captured: UnixMillis(number(CAPTURED)?),
        root: Root { scheme: RootScheme::Blake3, hash },
        size: ByteCount(number(SIZE)?),
        made: UnixMillis(number(MADE)?),
    })
}

/// Whether tags say that something belongs to this volume.
pub fn is_of(image: &Image, get: impl Fn(&str) -> Option<String>) -> bool {
    get(LINEAGE).is_some_and(|lineage| lineage == image.lineage.to_string())
}

/// The run that tags name.
pub fn run(get: impl Fn(&str) -> Option<String>) -> Option<RunId> {
    get(RUN)?.parse().ok()
}

/// Names may have letters of any script; what clouds take is ASCII.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).take(255).collect()
}
