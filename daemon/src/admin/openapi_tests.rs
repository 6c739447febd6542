//! The description against what is really served: every route stands in it and nothing else does, every answer fits
//! its schema, and so does every refusal.

use super::ErrorCode;
use super::openapi::{Answered, OPERATIONS, Operation, document};
use super::route::route;
use super::socket_path;
use super::test_backend::TestDaemon;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// The path with names that the test daemon knows.
fn path_of(operation: &Operation) -> String {
    let names = [
        ("{cluster_id}", "abc"),
        ("{link_name}", "dr"),
        ("{mirror_topic_name}", "orders"),
        ("{group_id}", "app"),
        ("{file}", "main.js"),
    ];
    names.iter().fold(operation.path.to_owned(), |path, (name, value)| path.replace(name, value))
}

/// Status, media type and body of an answer.
fn ask(daemon: &TestDaemon, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket_path(daemon.directory.path())).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (head[9..12].parse().unwrap(), kind.to_owned(), body.to_owned())
}

/// The schema that the description gives for a status of an operation.
fn schema(operation: &Operation, status: &str) -> Value {
    let method = operation.method.to_ascii_lowercase();
    document()["paths"][operation.path][method]["responses"][status]["content"]["application/json"]["schema"]
        .clone()
}

#[track_caller]
fn assert_fits(mut schema: Value, text: &str, what: &str) {
    assert!(schema.is_object(), "{what} has no schema");
    schema["components"] = document()["components"].clone();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    let wrong: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{what}: {wrong:?} in {text}");
}

#[test]
fn every_answer_fits_its_schema() {
    let daemon = TestDaemon::start();
    for operation in OPERATIONS {
        let body = operation.body.map_or("", |(_, example)| example);
        let named = if operation.id == "createLink" { "?link_name=west" } else { "" };
        let path = format!("{}{named}", path_of(operation));
        let (status, kind, text) = ask(&daemon, operation.method, &path, body);
        // The test daemon is not ready, and its guests may not leave.
        let expected = match operation.id {
            "readiness" => 503,
            "leaveGuest" => 422,
            _ => 200,
        };
        assert_eq!(status, expected, "{} {path}: {text}", operation.method);
        match &operation.answered {
            Answered::Text("*/*") => {}
            Answered::Text(expected) => assert!(kind.starts_with(expected), "{path} is {kind}"),
            _ if status == 200 => assert_fits(schema(operation, "200"), &text, operation.id),
            _ => assert_fits(schema(operation, "default"), &text, operation.id),
        }
    }
}

#[test]
fn every_refusal_fits_its_schema_and_its_status() {
    let daemon = TestDaemon::start();
    let refused = |operation: &Operation, path: &str, body: &str| {
        let (status, _, text) = ask(&daemon, operation.method, path, body);
        let what = format!("{} {path} {body}", operation.method);
        assert!(status >= 400, "{what} is not refused: {text}");
        assert_fits(schema(operation, "default"), &text, &what);
        let code: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(code["error_code"].as_u64().unwrap() / 100, u64::from(status), "{what}: {text}");
    };
    for operation in OPERATIONS {
        let (path, body) = (path_of(operation), operation.body.map_or("", |(_, example)| example));
        refused(operation, &format!("{path}?nonsense=1"), body);
        for bad in ["{\"unknown\":1}", "[", "null", "{\"validate_only\":\"yes\"}"] {
            refused(operation, &path, bad);
        }
        let questions = [
            "page_size",
            "limit",
            "contains",
            "validate_only",
            "force",
            "delete_data",
            "page_token",
            "link_name",
        ];
        for word in questions.iter().filter(|word| !operation.query.contains(word)) {
            let value = if ["page_size", "limit"].contains(word) { "5" } else { "true" };
            refused(operation, &format!("{path}?{word}={value}"), body);
        }
        if operation.path.contains("{link_name}/") || operation.path.ends_with("{link_name}") {
            refused(operation, &path.replace("/dr", "/%64r"), body);
        }
    }
}

/// Every word of a path that `route` knows, read from its source: what is added there is tried here by itself.
fn words() -> BTreeSet<&'static str> {
    let source = include_str!("route.rs").split("#[cfg(test)]").next().unwrap();
    let is_word = |word: &&str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:-_".contains(&byte))
    };
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_word).collect()
}

/// The operation of a method and a path, where the description has one.
fn described(method: &Method, path: &str) -> Option<&'static Operation> {
    // No name holds a colon: what does is an order.
    let is_name = |given: &str| !given.is_empty() && !given.contains(':');
    let fits = |template: &str| {
        let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len()
            && wanted
                .iter()
                .zip(&given)
                .all(|(wanted, given)| wanted == given || wanted.starts_with('{') && is_name(given))
    };
    OPERATIONS.iter().find(|each| each.method == method.as_str() && fits(each.path))
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let words = words();
    assert!(
        words.contains("mirrors:promote") && words.contains("openapi.json") && words.len() > 15,
        "{words:?}"
    );
    let link = "/kafka/v3/clusters/-/links/dr";
    let bases = ["", "/twinlog", "/twinlog/v1", "/kafka", "/kafka/v3", "/kafka/v3/clusters/-", link];
    let mut paths: BTreeSet<String> = BTreeSet::from(["/".to_owned(), link.to_owned()]);
    paths.extend(OPERATIONS.iter().map(path_of));
    for (base, word) in bases.iter().flat_map(|base| words.iter().map(move |word| (base, word))) {
        let path = format!("{base}/{word}");
        paths.extend([format!("{path}/orders"), path.clone()]);
        paths.extend(
            words.iter().flat_map(|last| [format!("{path}/{last}"), format!("{path}/orders/{last}")]),
        );
    }
    let mut found = BTreeSet::new();
    for (path, method) in paths.iter().flat_map(|path| METHODS.iter().map(move |method| (path, method))) {
        let outcome = route(method, path, None, b"");
        let is_route = !matches!(&outcome, Err(error) if [ErrorCode::NoSuchPath, ErrorCode::NoSuchMethod].contains(&error.code));
        let operation = described(method, path).filter(|each| each.id != "pageFile" || is_route);
        assert_eq!(is_route, operation.is_some(), "{method} {path}");
        found.extend(operation.map(|each| each.id));
    }
    let all: BTreeSet<&str> = OPERATIONS.iter().map(|each| each.id).collect();
    assert_eq!(found, all, "every operation is a route");
    assert_eq!(all.len(), OPERATIONS.len(), "no name stands twice");
}

#[test]
fn the_description_is_whole() {
    let whole = document();
    assert_eq!(whole["openapi"], "3.1.0");
    let text = whole.to_string();
    let schemas = whole["components"]["schemas"].as_object().unwrap();
    for reference in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let name = reference.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{reference}"));
        assert!(schemas.contains_key(name), "{reference}");
    }
    let mirror = &schemas["MirrorTopicView"];
    let required = mirror["required"].as_array().unwrap();
    assert!(required.contains(&json!("lag_ms")), "a field of an answer is always there: {required:?}");
    assert!(mirror["properties"]["lag_age_ms"].is_object(), "marks stand beside the figures: {mirror}");
    let order = &schemas["MirrorOrder"];
    assert!(order["required"].is_null() && order["additionalProperties"] == false, "{order}");
    for operation in OPERATIONS {
        let told = &whole["paths"][operation.path][operation.method.to_ascii_lowercase()];
        let parameters = told["parameters"].as_array().unwrap();
        assert_eq!(parameters.len(), operation.names().count() + operation.query.len(), "{}", operation.id);
    }
}
