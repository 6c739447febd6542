//! The description of the interface for programs: OpenAPI 3.1 at `/openapi.json`.
//!
//! Owns the table of operations. Schemas of bodies and answers come from the very types that are read and written, so
//! that they cannot say something else. A test holds the table against `route`, both ways, and answers against it.

use super::answer::*;
use super::body::{ConfigOrder, LinkOrder, MirrorOrder};
use super::error::ErrorBody;
use super::page::PAGE_SIZE_MAX;
use super::web::WebFile;
use crate::control::state::AUDIT_ROWS_MAX;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

const SCHEMAS: &str = "/components/schemas";

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What is answered when all is well.
pub(super) enum Answered {
    /// Of this media type; not JSON.
    Text(&'static str),
    Json(SchemaOf),
    /// The one, or the other.
    Either(SchemaOf, SchemaOf),
    /// Its own description.
    Anything,
}

/// One operation. Words in braces within its path are names.
pub(super) struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    summary: &'static str,
    pub query: &'static [&'static str],
    /// Its schema, and an example of it.
    pub body: Option<(SchemaOf, &'static str)>,
    pub answered: Answered,
    /// Asked without a login.
    is_open: bool,
}

const fn question(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answered: Answered,
) -> Operation {
    Operation { method: "GET", path, id, summary, query: &[], body: None, answered, is_open: false }
}

impl Operation {
    const fn with_query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    const fn by(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    const fn with_body(self, body: SchemaOf, example: &'static str) -> Self {
        Self { body: Some((body, example)), ..self }
    }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn one<T: JsonSchema>() -> Answered {
    Answered::Json(of::<T>)
}

const fn list<T: JsonSchema>() -> Answered {
    Answered::Json(of::<ListView<T>>)
}

/// Orders on mirror topics: their body, and what came of it for each topic.
const fn order(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    example: &'static str,
) -> Operation {
    question(path, id, summary, list::<MirrorActionView>())
        .by("POST")
        .with_query(DRY)
        .with_body(of::<MirrorOrder>, example)
}

const PAGED: &[&str] = &["page_size", "page_token"];
const DRY: &[&str] = &["validate_only"];
const NAMED: &str = r#"{"mirror_topic_names":["orders"],"validate_only":true}"#;
const ALTERED: &str = r#"{"data":[{"name":"flush.ms","value":"500"}],"validate_only":true}"#;
const LINKS: &str = "/kafka/v3/clusters/{cluster_id}/links";
const LINK: &str = "/kafka/v3/clusters/{cluster_id}/links/{link_name}";
const MIRRORS: &str = "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors";
const MIRROR: &str = "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors/{mirror_topic_name}";

/// Everything that can be asked and ordered.
pub(super) const OPERATIONS: &[Operation] = &[
    question("/", "page", "The page.", Answered::Text("text/html")).open(),
    question("/web/{file}", "pageFile", "A file of the page.", Answered::Text("*/*")).open(),
    question("/openapi.json", "description", "This description.", Answered::Anything),
    question("/healthz", "health", "That the daemon is there.", Answered::Text("text/plain")).open(),
    question("/readyz", "readiness", "Whether orders are taken.", Answered::Text("text/plain")).open(),
    question("/metrics", "metrics", "Series for Prometheus.", Answered::Text("application/openmetrics-text")),
    question("/twinlog/v1/status", "status", "The daemon at a glance.", one::<StatusView>()),
    question("/twinlog/v1/audit", "audit", "The newest orders; for operators.", list::<AuditView>())
        .with_query(&["limit"]),
    question("/kafka/v3/clusters", "listClusters", "Destination clusters.", list::<ClusterView>())
        .with_query(PAGED),
    question(LINKS, "listLinks", "Links.", list::<LinkView>()).with_query(PAGED),
    question(LINKS, "createLink", "Creates a link.", one::<LinkChangeView>())
        .by("POST")
        .with_query(&["link_name", "validate_only"])
        .with_body(
            of::<LinkOrder>,
            r#"{"configs":[{"name":"bootstrap.servers","value":"a:9092"}],"validate_only":true}"#,
        ),
    question(LINK, "describeLink", "One link.", one::<LinkView>()),
    question(LINK, "updateLink", "The same as alterLinkConfigs.", ALTERED_ANSWER)
        .by("PATCH")
        .with_query(DRY)
        .with_body(of::<ConfigOrder>, ALTERED),
    question(
        LINK,
        "deleteLink",
        "Deletes a link; by force also with its mirror topics.",
        one::<LinkChangeView>(),
    )
    .by("DELETE")
    .with_query(&["validate_only", "force"]),
    question(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/configs",
        "listLinkConfigs",
        "The configuration of a link, without secrets.",
        list::<LinkConfigView>(),
    )
    .with_query(PAGED),
    question(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/configs:alter",
        "alterLinkConfigs",
        "Changes the configuration of a link; cluster.link.paused alone pauses it or lets it go on.",
        ALTERED_ANSWER,
    )
    .by("PUT")
    .with_query(DRY)
    .with_body(of::<ConfigOrder>, ALTERED),
    question(
        MIRRORS,
        "listMirrorTopics",
        "Mirror topics; of all links where the link is -.",
        list::<MirrorTopicView>(),
    )
    .with_query(PAGED),
    question(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/groups",
        "listConsumerGroups",
        "Consumer groups of the source, and how their copies stand; with limit, those that should be looked at first.",
        list::<GroupView>(),
    )
    .with_query(&["page_size", "page_token", "limit", "contains"]),
    question(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/groups/{group_id}",
        "describeConsumerGroup",
        "One consumer group, with its positions.",
        one::<GroupView>(),
    ),
    order(MIRRORS, "createMirrorTopics", "Creates mirror topics.", NAMED),
    question(
        MIRROR,
        "describeMirrorTopic",
        "One mirror topic, with its partitions.",
        one::<MirrorTopicView>(),
    ),
    question(MIRROR, "deleteMirrorTopic", "Forgets a mirror topic.", list::<MirrorActionView>())
        .by("DELETE")
        .with_query(&["validate_only", "delete_data"]),
    order(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors:promote",
        "promoteMirrorTopics",
        "Makes mirror topics writable after proof that nothing is missing.",
        NAMED,
    ),
    order(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors:failover",
        "failoverMirrorTopics",
        "Makes mirror topics writable at once, without their source.",
        NAMED,
    ),
    order(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors:pause",
        "pauseMirrorTopics",
        "Fetches mirror topics no more until they are resumed.",
        NAMED,
    ),
    order(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/mirrors:resume",
        "resumeMirrorTopics",
        "Lets paused mirror topics go on, or releases stopped partitions.",
        NAMED,
    ),
    question(
        "/kafka/v3/clusters/{cluster_id}/links/{link_name}/guest:leave",
        "leaveGuest",
        "Unregisters the guest brokers of a link that has no mirror topics any more.",
        one::<GuestLeaveView>(),
    )
    .by("POST")
    .with_query(DRY)
    .with_body(of::<MirrorOrder>, r#"{"validate_only":true}"#),
];

const ALTERED_ANSWER: Answered = Answered::Either(of::<LinkChangeView>, of::<LinkView>);

/// The whole description. It never changes while the program runs.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(write)
}

fn write() -> Value {
    let settings =
        || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = SCHEMAS.into());
    // A field with a default is always there in an answer, and may be left out of a body.
    let mut answers = settings().for_serialize().into_generator();
    let mut bodies = settings().for_deserialize().into_generator();
    let error = of::<ErrorBody>(&mut answers);
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let mut told = operation.written(&mut answers, &error);
        if let Some((schema, example)) = operation.body {
            let example: Value = serde_json::from_str(example).expect("examples are JSON");
            let content = json!({"application/json": {"schema": schema(&mut bodies), "example": example}});
            told["requestBody"] = json!({"required": true, "content": content});
        }
        paths.entry(operation.path).or_insert_with(|| json!({}))[operation.method.to_ascii_lowercase()] =
            told;
    }
    let mut schemas = answers.take_definitions(true);
    schemas.extend(bodies.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Twinlog",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Links and mirror topics in the shape of Kafka's REST v3; cluster_id may be -, for \
                            whichever destination the daemon serves. A figure that is not known is null, never 0.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A line of twinlog token create."},
                "certificate": {"type": "mutualTLS"},
            },
        },
        "security": [{"token": []}, {"certificate": []}],
    })
}

impl Operation {
    fn written(&self, schemas: &mut SchemaGenerator, error: &Schema) -> Value {
        let content = match &self.answered {
            Answered::Text(kind) => json!({*kind: {"schema": {"type": "string"}}}),
            Answered::Json(schema) => json!({"application/json": {"schema": schema(schemas)}}),
            Answered::Either(one, other) => {
                json!({"application/json": {"schema": {"anyOf": [one(schemas), other(schemas)]}}})
            }
            Answered::Anything => json!({"application/json": {"schema": {"type": "object"}}}),
        };
        let mut responses = json!({
            "200": {"description": "As asked.", "content": content},
            "default": {
                "description": "Refused: the first three digits of error_code are the status.",
                "content": {"application/json": {"schema": error}},
            },
        });
        if self.id == "readiness" {
            let text = json!({"text/plain": {"schema": {"type": "string"}}});
            responses["503"] = json!({"description": "Not yet; what is waited for.", "content": text});
        }
        let parameters: Vec<Value> = self
            .names()
            .map(|name| parameter(name, "path"))
            .chain(self.query.iter().map(|name| parameter(name, "query")))
            .collect();
        let mut told = json!({
            "operationId": self.id,
            "summary": self.summary,
            "parameters": parameters,
            "responses": responses,
        });
        if self.is_open {
            told["security"] = json!([]);
        }
        told
    }

    /// Names within the path.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}

fn parameter(name: &str, place: &str) -> Value {
    let files: Vec<&str> = WebFile::names().collect();
    let schema = match name {
        "validate_only" | "delete_data" | "force" => json!({"type": "boolean", "default": false}),
        "page_size" => json!({"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_MAX}),
        "limit" => json!({"type": "integer", "minimum": 1, "maximum": AUDIT_ROWS_MAX}),
        "contains" => json!({"type": "string", "minLength": 1}),
        "file" => json!({"type": "string", "enum": files}),
        _ => json!({"type": "string", "pattern": "^[A-Za-z0-9._:-]+$"}),
    };
    // The link that is created has to have a name.
    let is_required = place == "path" || name == "link_name";
    json!({"name": name, "in": place, "required": is_required, "schema": schema})
}
