//! The proof that people keep: who put what where, when, and how it was compared, signed by the gateway.

use super::runs::{Proven, Run};
use super::{Proof, RehydrateError};
use crate::catalogue::NewProof;
use crate::proofs::{About, moment};
use crate::state::State;
use serde_json::{Map, Value, json};
use targets::Point;

/// Kind of the statement.
const KIND: &str = "rehydration";

/// Signs what a run proved.
pub(super) fn of(
    state: &State,
    run: &Run,
    kind: &str,
    point: &Point,
    proven: &Proven,
) -> Result<NewProof, RehydrateError> {
    let (work, image) = (&run.work, &run.work.image);
    let method = match proven.method {
        Proof::All => "all of it was read back from the target, and its BLAKE3 is the root".to_owned(),
        Proof::Changed => "what was written was read back from the target and compared with the generation".to_owned(),
        Proof::Sample(share) => format!(
            "what was written and {share} % of the rest, chosen at random, were read back from the target and compared with the generation"
        ),
    };
    let body = json!({
        "asked_by": run.by,
        "tenant": image.tenant,
        "site": image.site,
        "volume": image.volume,
        "lineage": image.lineage.to_string(),
        "generation": { "id": work.generation.to_string(), "number": work.number, "captured": moment(work.captured) },
        "size": work.size.0,
        "root_blake3": work.root.to_string(),
        "target": { "name": run.to.to_string(), "kind": kind, "point": point.id },
        "begun": moment(run.begun),
        "finished": moment(point.made),
        "method": method,
        "compared_bytes": proven.bytes,
        "all_compared": proven.method == Proof::All,
        "repaired": proven.repaired,
        "run": work.run.to_string(),
    });
    let Value::Object(body) = body else { unreachable!("written as an object above") };
    let body: Map<String, Value> = body;
    let subject = format!("{}/{}/{} generation {} on {}", image.tenant, image.site, image.volume, work.number, run.to);
    Ok(state.state_and_sign(KIND, &About { tenant: run.tenant, subject }, body)?)
}
