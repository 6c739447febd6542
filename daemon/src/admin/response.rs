//! What every answer looks like on the wire: its kind, its status, and what browsers must not do with it.

use super::peers::HOLD_MAX;
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
    finish(status, "text/plain; charset=utf-8", format!("{line}\n").into_bytes())
}

pub(super) fn metrics_text(text: String) -> Answer {
    finish(StatusCode::OK, super::metrics::MEDIA_TYPE, text.into_bytes())
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
    finish(status, "application/json", json)
}

fn finish(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in SAFETY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
