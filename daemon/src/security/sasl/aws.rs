//! AWS_MSK_IAM: one message that says who we are, signed as a request to AWS would be.
//!
//! ```text
//!   GET / ? Action=kafka-cluster:Connect & X-Amz-...      never sent, only signed (SigV4, query parameters)
//!   {"version":"2020_10_22","host":...,"user-agent":...,"action":...,"x-amz-...":...}     what the broker gets
//! ```
//! Owns the signature and the message's form, as github.com/aws/aws-msk-iam-auth documents them. Must never put the
//! secret key into anything but the signature: the message holds the key's id and, for temporary ones, the token.

use super::endpoint::url_encoded;
use crate::security::Secret;
use aws_lc_rs::{digest, hmac};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_cert::der::DateTime;
use zeroize::Zeroizing;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "kafka-cluster:Connect";
const PAYLOAD_VERSION: &str = "2020_10_22";
/// How long one signature is good for, as AWS's own client has it. Raised, a message that somebody records opens
/// connections for as long.
const EXPIRES_SECONDS: u32 = 900;
/// The longest moment that is written; a clock beyond it is broken.
const CLOCK_MAX: Duration = Duration::from_secs(253_402_300_799);

/// One key of an AWS account; temporary ones come with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKey {
    pub id: String,
    pub secret: Secret,
    pub session_token: Secret,
}

/// What is signed, beside the key.
struct Request<'a> {
    host: &'a str,
    path: &'a str,
    service: &'a str,
    region: &'a str,
    at: SystemTime,
    expires_seconds: u32,
    /// SHA-256 of the body in hexadecimal letters, or what stands for it.
    body: &'a str,
    action: Option<&'a str>,
}

/// The message for a broker.
pub fn message(key: &AwsKey, region: &str, host: &str, at: SystemTime) -> Zeroizing<Vec<u8>> {
    let request = Request {
        host,
        path: "/",
        service: SERVICE,
        region,
        at,
        expires_seconds: EXPIRES_SECONDS,
        body: &hexadecimal(digest::digest(&digest::SHA256, b"").as_ref()),
        action: Some(ACTION),
    };
    let signed = signed_parameters(&request, key).into_iter();
    let mut fields: BTreeMap<String, String> =
        signed.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    fields.insert("version".to_owned(), PAYLOAD_VERSION.to_owned());
    fields.insert("host".to_owned(), host.to_owned());
    fields.insert("user-agent".to_owned(), concat!("twinlog/", env!("CARGO_PKG_VERSION")).to_owned());
    Zeroizing::new(serde_json::to_vec(&fields).expect("texts are written as texts"))
}

/// The region that stands in a name such as `b-1.name.abc.c2.kafka.eu-west-1.amazonaws.com`.
pub fn region_of(host: &str) -> Option<&str> {
    let rest = host.trim_end_matches('.');
    let rest = rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))?;
    let (before, region) = rest.rsplit_once('.')?;
    let service = before.rsplit('.').next()?;
    (service.starts_with("kafka") && !region.is_empty()).then_some(region)
}

/// The parameters of the request that is signed, the signature among them.
fn signed_parameters(request: &Request<'_>, key: &AwsKey) -> BTreeMap<&'static str, String> {
    let Request { host, path, service, region, body, .. } = request;
    let moment = moment(request.at);
    let day = &moment[..8];
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let mut parameters = BTreeMap::from([
        ("X-Amz-Algorithm", ALGORITHM.to_owned()),
        ("X-Amz-Credential", format!("{}/{scope}", key.id)),
        ("X-Amz-Date", moment.clone()),
        ("X-Amz-Expires", request.expires_seconds.to_string()),
        ("X-Amz-SignedHeaders", "host".to_owned()),
    ]);
    if let Some(action) = request.action {
        parameters.insert("Action", action.to_owned());
    }
    if !key.session_token.is_empty() {
        parameters.insert("X-Amz-Security-Token", key.session_token.expose().to_owned());
    }
    // In the order of their names, which is the map's.
    let query: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", url_encoded(value))).collect();
    let canonical = format!("GET\n{path}\n{}\nhost:{host}\n\nhost\n{body}", query.join("&"));
    let hash = hexadecimal(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{moment}\n{scope}\n{hash}");
    let first = Zeroizing::new(format!("AWS4{}", key.secret.expose()));
    let mut derived = keyed(first.as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        derived = keyed(derived.as_ref(), part);
    }
    parameters.insert("X-Amz-Signature", hexadecimal(keyed(derived.as_ref(), &text).as_ref()));
    parameters
}

fn keyed(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// `20201022T031500Z`.
fn moment(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().min(CLOCK_MAX);
    let date = DateTime::from_unix_duration(since).expect("years from 1970 to 9999 have a form");
    let (year, month, day) = (date.year(), date.month(), date.day());
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", date.hour(), date.minutes(), date.seconds())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(id: &str, secret: &str) -> AwsKey {
        AwsKey { id: id.to_owned(), secret: secret.into(), session_token: Secret::default() }
    }

    /// The example of "Authenticating Requests: Using Query Parameters" in the documentation of Amazon S3.
    #[test]
    fn the_signature_of_the_published_example_is_the_one_that_we_make() {
        let request = Request {
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            service: "s3",
            region: "us-east-1",
            at: at(1_369_353_600),
            expires_seconds: 86_400,
            body: "UNSIGNED-PAYLOAD",
            action: None,
        };
        let key = key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let signed = signed_parameters(&request, &key);
        assert_eq!(signed["X-Amz-Credential"], "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request");
        assert_eq!(signed["X-Amz-Date"], "20130524T000000Z");
        assert_eq!(
            signed["X-Amz-Signature"],
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    /// The derivation of a signing key as "Examples of the complete Signature Version 4 signing process" shows it.
    #[test]
    fn the_signing_key_of_the_published_example_is_the_one_that_we_derive() {
        let mut derived = keyed(b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830");
        for part in ["us-east-1", "iam", "aws4_request"] {
            derived = keyed(derived.as_ref(), part);
        }
        let published = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9";
        assert_eq!(hexadecimal(derived.as_ref()), published);
    }

    #[test]
    fn the_message_has_the_documented_fields_and_no_secret() {
        let mut key = key("AKID", "hunter2");
        let host = "b-1.c.kafka.eu-west-1.amazonaws.com";
        let read = |bytes: &[u8]| serde_json::from_slice::<BTreeMap<String, String>>(bytes).unwrap();
        let fields = read(&message(&key, "eu-west-1", host, at(1_603_336_500)));
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let documented = [
            "action",
            "host",
            "user-agent",
            "version",
            "x-amz-algorithm",
            "x-amz-credential",
            "x-amz-date",
            "x-amz-expires",
            "x-amz-signature",
            "x-amz-signedheaders",
        ];
        assert_eq!(names, documented);
        assert_eq!(fields["x-amz-date"], "20201022T031500Z");
        assert_eq!(fields["x-amz-credential"], "AKID/20201022/eu-west-1/kafka-cluster/aws4_request");
        assert!(!fields.values().any(|value| value.contains("hunter2")));
        key.session_token = "to/ken+=".into();
        let temporary = read(&message(&key, "eu-west-1", host, at(1_603_336_500)));
        assert_eq!(temporary["x-amz-security-token"], "to/ken+=");
        assert_ne!(temporary["x-amz-signature"], fields["x-amz-signature"]);
    }

    #[test]
    fn a_region_is_read_from_a_name_of_a_broker_and_from_no_other() {
        for (host, region) in [
            ("b-1.name.abc.c2.kafka.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("boot-x.c3.kafka-serverless.us-east-1.amazonaws.com", Some("us-east-1")),
            ("b-2.n.a.c4.kafka.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("bucket.s3.us-east-1.amazonaws.com", None),
            ("kafka.example.com", None),
            ("amazonaws.com", None),
            ("", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }
}
