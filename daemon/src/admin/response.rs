//! What every answer looks like on the wire: its kind, its status, and what browsers must not do with it.

use super::peers::HOLD_MAX;
use super::web::WebFile;
use super::{AdminError, ErrorCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// An answer is what its type says, is shown in nobody's frame, loads nothing from elsewhere and is not kept.
const SAFETY: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (CONTENT_SECURITY_POLICY, "default-src 'self'"),
    (CACHE_CONTROL, "no-store"),
];

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn one<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

pub(super) fn text(status: StatusCode, line: &str) -> Answer {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    finish(status, kind, Bytes::from(format!("{line}\n")))
}

pub(super) fn metrics_text(text: String) -> Answer {
    finish(StatusCode::OK, HeaderValue::from_static(super::metrics::MEDIA_TYPE), Bytes::from(text))
}

pub(super) fn web_file(file: &'static WebFile) -> Answer {
    finish(StatusCode::OK, file.kind(), Bytes::from_static(file.text.as_bytes()))
}

pub(super) fn refusal(error: &AdminError) -> Answer {
    let status = StatusCode::from_u16(error.code.status()).expect("codes begin with a status");
    let mut answer = json(status, &error.body());
    match error.code {
        ErrorCode::NotLoggedIn => {
            let value = HeaderValue::from_static("Bearer realm=\"twinlog\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        ErrorCode::HeldBack => {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(HOLD_MAX.as_secs()));
        }
        _ => {}
    }
    answer
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let json = serde_json::to_vec(value).expect("texts, numbers and lists of them are always JSON");
    finish(status, HeaderValue::from_static("application/json"), Bytes::from(json))
}

fn finish(status: StatusCode, kind: HeaderValue, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    for (name, value) in SAFETY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
