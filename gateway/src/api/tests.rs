//! The description of the API.

use super::*;

#[test]
fn the_checked_in_description_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api/openapi.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == described(),
        "docs/api/openapi.json is not what the code says: look at what changed, then `sluice-gateway openapi > docs/api/openapi.json`"
    );
}

#[test]
fn every_operation_says_which_right_it_takes_and_every_error_is_a_problem() {
    let document = serde_json::to_value(document()).unwrap();
    let open = ["/session post", "/setup post"];
    let rights = ["see", "operate", "approve", "administer"];
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            operations += 1;
            let name = format!("{path} {method}");
            let scopes: Vec<&str> = operation["security"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|one| one.as_object().unwrap().values())
                .flat_map(|scopes| scopes.as_array().unwrap())
                .map(|scope| scope.as_str().unwrap())
                .collect();
            assert_eq!(scopes.is_empty(), open.contains(&name.as_str()), "{name}");
            assert!(scopes.iter().all(|scope| rights.contains(scope) && *scope == scopes[0]), "{name}: {scopes:?}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_error = status.starts_with('4') || status.starts_with('5');
                let of = response["content"]["application/json"]["schema"]["$ref"].as_str();
                assert_eq!(is_error, of == Some("#/components/schemas/Problem"), "{name} {status}: {response}");
            }
            assert!(
                operation["summary"].is_string() || operation["description"].is_string(),
                "{name} says nothing of itself"
            );
        }
    }
    assert!(operations > 40, "{operations}");
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(|to| to.as_str()));
                fields.values().for_each(|field| references(field, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(document()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    let dangling: Vec<&str> = found
        .into_iter()
        .filter(|to| to.strip_prefix('#').is_none_or(|pointer| document.pointer(pointer).is_none()))
        .collect();
    assert!(dangling.is_empty(), "{dangling:?}");
}

#[test]
fn lists_are_handed_out_in_parts() {
    let page = |page, per_page| PageOf { page, per_page }.take((0..250).collect::<Vec<_>>());
    let first = page(None, None).unwrap();
    assert_eq!((first.items.len(), first.items[0], first.page, first.total), (100, 0, 1, 250));
    assert_eq!(page(Some(3), None).unwrap().items, (200..250).collect::<Vec<_>>());
    assert!(page(Some(4), None).unwrap().items.is_empty());
    assert!(page(Some(u32::MAX), Some(500)).unwrap().items.is_empty());
    for (number, per_page) in [(Some(0), None), (None, Some(0)), (None, Some(501))] {
        assert_eq!(page(number, per_page).unwrap_err().status, 422);
    }
}
