//! What an edge and a gateway see of the appliance's system, where none is started: a release that does nothing, and the files that say what runs.

use crate::world::World;
use anyhow::{Context, Result};
use release::bundle;
use release::report::{self, SystemReport};
use release::slots::Slot;
use release::verity::Verity;
use std::fs;
use std::path::PathBuf;
use wire::release::{Manifest, ReleaseId, Role};
use wire::statement::{KeyId, StatementKey};

/// Version 2.0 of the appliance's system, which does nothing, as a bundle, and the key that signed it.
pub fn release(world: &World) -> Result<(PathBuf, KeyId)> {
    let key = StatementKey::read(&StatementKey::generate()).context("a key that was just made")?;
    let image = [7; 64 << 10];
    let mut verity = Verity::new([0; 32]);
    verity.update(&image);
    let manifest = Manifest {
        role: Role::Edge,
        version: "2.0".into(),
        sequence: 2,
        bytes: image.len() as u64,
        id: verity.finish().root(),
        salt: [0; 32],
        made: dedupe::UnixMillis(0),
        next_key: None,
    };
    let path = world.path().join("next.sluice-release");
    bundle::write(&manifest.sign(&key)?.to_json(), image.as_slice(), fs::File::create(&path)?, 1)?;
    Ok((path, key.public()))
}

/// Version 1.0 runs: what an appliance's daemon is told of its system, and where, as a line of the edge's configuration.
pub fn appliance(world: &World) -> Result<String> {
    let folder = world.path().join("appliance");
    fs::create_dir(&folder)?;
    let system = SystemReport {
        role: "edge".into(),
        version: "1.0".into(),
        sequence: 1,
        release: ReleaseId([1; 32]).hex(),
        slot: Slot::A,
        confirmed: true,
        previous: None,
        left: None,
        settled: true,
        last: None,
    };
    report::write(&folder.join("system.json"), &system)?;
    Ok(format!("appliance = {{ folder = \"{0}\", keys = \"{0}/keys\" }}", folder.display()))
}
