//! Exchanges against answers that are written by hand, good ones and hostile ones.

use super::login::SaslLogin;
use super::*;
use crate::security::{SaslMechanism, SaslSettings, SecurityError};

fn login(mechanism: SaslMechanism) -> SaslLogin {
    let settings = SaslSettings {
        mechanism: Some(mechanism),
        username: "twin".to_owned(),
        password: "hunter2".into(),
        ..Default::default()
    };
    SaslLogin::new(&settings, &Default::default()).unwrap()
}

/// Correlation id of a frame that was polled.
fn correlation(frame: &[u8]) -> [u8; 4] {
    frame[8..12].try_into().unwrap()
}

fn handshake_answer(frame: &[u8], code: i16, mechanisms: &[&str]) -> Vec<u8> {
    let mut answer = correlation(frame).to_vec();
    answer.extend(code.to_be_bytes());
    answer.extend((mechanisms.len() as i32).to_be_bytes());
    for name in mechanisms {
        answer.extend((name.len() as i16).to_be_bytes());
        answer.extend(name.as_bytes());
    }
    answer
}

fn authenticate_answer(frame: &[u8], code: i16, message: &str, bytes: &[u8], lifetime_ms: i64) -> Vec<u8> {
    let mut answer = correlation(frame).to_vec();
    answer.extend(code.to_be_bytes());
    answer.extend((message.len() as i16).to_be_bytes());
    answer.extend(message.as_bytes());
    answer.extend((bytes.len() as i32).to_be_bytes());
    answer.extend(bytes);
    answer.extend(lifetime_ms.to_be_bytes());
    answer
}

/// Polls the handshake and answers it well.
fn shake(exchange: &mut SaslExchange) -> Vec<u8> {
    let frame = exchange.poll_frame().unwrap();
    assert!(exchange.poll_frame().is_none(), "one request at a time");
    exchange.answer(&handshake_answer(&frame, 0, &["PLAIN"])).unwrap();
    exchange.poll_frame().unwrap()
}

#[test]
fn plain_is_two_frames_whose_bytes_are_kafkas() {
    let login = login(SaslMechanism::Plain);
    let mut exchange = login.exchange("broker").unwrap();
    let frame = exchange.poll_frame().unwrap();
    let mut expected = vec![0, 0, 0, 24, 0, 17, 0, 1];
    expected.extend(correlation(&frame));
    expected.extend([0, 7]);
    expected.extend(b"twinlog");
    expected.extend([0, 5]);
    expected.extend(b"PLAIN");
    assert_eq!(frame, expected);
    exchange.answer(&handshake_answer(&frame, 0, &["PLAIN"])).unwrap();
    let frame = exchange.poll_frame().unwrap();
    assert_eq!(&frame[4..8], [0, 36, 0, 1]);
    assert!(frame.ends_with(b"\0\0\0\x0d\0twin\0hunter2"));
    assert!(!exchange.is_done());
    exchange.answer(&authenticate_answer(&frame, 0, "", b"", 10_500)).unwrap();
    assert!(exchange.is_done() && exchange.poll_frame().is_none());
    assert_eq!(exchange.session_lifetime_ms(), 10_500);
    let renewed = exchange.renew_after().unwrap().as_millis();
    assert!((8_925..=9_975).contains(&renewed), "{renewed}");
    assert!(!format!("{exchange:?}").contains("hunter2"));
}

#[test]
fn a_session_without_an_end_is_never_renewed() {
    let mut exchange = login(SaslMechanism::Plain).exchange("broker").unwrap();
    let frame = shake(&mut exchange);
    exchange.answer(&authenticate_answer(&frame, 0, "", b"", 0)).unwrap();
    assert_eq!(exchange.renew_after(), None);
}

#[test]
fn a_refusal_is_named_and_holds_back_every_further_attempt() {
    let login = login(SaslMechanism::Plain);
    let mut exchange = login.exchange("broker").unwrap();
    let frame = shake(&mut exchange);
    let error = exchange.answer(&authenticate_answer(&frame, 58, "Invalid\nuser", b"", 0)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("PLAIN") && text.contains("twin") && text.contains("Invaliduser"), "{text}");
    assert!(!text.contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    assert!(exchange.poll_frame().is_none() && !exchange.is_done());
    let held = login.exchange("broker").unwrap_err();
    assert!(matches!(&held, SecurityError::HeldBack { .. }) && held.is_authentication(), "{held}");
    assert!(login.exchange("another").is_err(), "nobody believed this password yet");
}

#[test]
fn a_mechanism_that_is_not_offered_is_told_with_those_that_are() {
    let mut exchange = login(SaslMechanism::ScramSha512).exchange("broker").unwrap();
    let frame = exchange.poll_frame().unwrap();
    let error = exchange.answer(&handshake_answer(&frame, 33, &["GSSAPI", "PLAIN"])).unwrap_err();
    assert!(error.to_string().contains("SCRAM-SHA-512 but GSSAPI, PLAIN"), "{error}");
}

#[test]
fn a_token_that_is_refused_is_told_in_the_brokers_words() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "ey.J.").unwrap();
    let mut settings = SaslSettings { mechanism: Some(SaslMechanism::OauthBearer), ..Default::default() };
    settings.oauth.token_endpoint_url = format!("file://{}/token", directory.path().display());
    let mut exchange = SaslLogin::new(&settings, &Default::default()).unwrap().exchange("broker").unwrap();
    let frame = shake(&mut exchange);
    assert!(frame.ends_with(b"n,,\x01auth=Bearer ey.J.\x01\x01"));
    let status = br#"{"status":"invalid_token"}"#;
    exchange.answer(&authenticate_answer(&frame, 0, "", status, 0)).unwrap();
    let frame = exchange.poll_frame().unwrap();
    assert!(frame.ends_with(b"\0\0\0\x01\x01") && !exchange.is_done());
    let error = exchange.answer(&authenticate_answer(&frame, 58, "no", b"", 0)).unwrap_err();
    assert!(error.to_string().contains("invalid_token"), "{error}");
}

#[test]
fn every_answer_that_is_cut_or_longer_or_another_requests_is_refused() {
    let good = |frame: &[u8]| authenticate_answer(frame, 0, "", b"", 0);
    let frame = shake(&mut login(SaslMechanism::Plain).exchange("broker").unwrap());
    for length in 0..good(&frame).len() {
        let mut exchange = login(SaslMechanism::Plain).exchange("broker").unwrap();
        let frame = shake(&mut exchange);
        assert!(exchange.answer(&good(&frame)[..length]).is_err(), "{length}");
        assert!(exchange.poll_frame().is_none() && !exchange.is_done());
        assert!(exchange.answer(&good(&frame)).is_err(), "an exchange that failed stays so");
    }
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut exchange = login(SaslMechanism::Plain).exchange("broker").unwrap();
        let mut answer = good(&shake(&mut exchange));
        change(&mut answer);
        assert!(exchange.answer(&answer).is_err());
    };
    refuse(&|answer| answer.push(0));
    refuse(&|answer| answer[0] ^= 1);
    let mut exchange = login(SaslMechanism::Plain).exchange("broker").unwrap();
    let frame = exchange.poll_frame().unwrap();
    let mut endless = handshake_answer(&frame, 0, &[]);
    endless[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(exchange.answer(&endless).is_err());
}

#[test]
fn a_delegation_token_says_that_it_is_one_and_goes_with_scram_alone() {
    let settings = |mechanism, is_delegation_token| SaslSettings {
        mechanism: Some(mechanism),
        username: "id".to_owned(),
        password: "hunter2".into(),
        is_delegation_token,
        ..Default::default()
    };
    for (is_token, end) in [(true, &b",tokenauth=true"[..]), (false, b"")] {
        let settings = settings(SaslMechanism::ScramSha256, is_token);
        let mut exchange =
            SaslLogin::new(&settings, &Default::default()).unwrap().exchange("broker").unwrap();
        let frame = shake(&mut exchange);
        assert!(frame.ends_with(end));
        assert_eq!(frame.windows(9).any(|window| window == b"tokenauth"), is_token);
    }
    let refused = SaslLogin::new(&settings(SaslMechanism::Plain, true), &Default::default()).err().unwrap();
    assert!(refused.to_string().contains("sasl.mechanism = PLAIN"), "{refused}");
}

#[test]
fn a_session_is_never_renewed_within_a_second_of_its_beginning() {
    for lifetime_ms in [1, 900, 1_100] {
        let mut exchange = login(SaslMechanism::Plain).exchange("broker").unwrap();
        let frame = shake(&mut exchange);
        exchange.answer(&authenticate_answer(&frame, 0, "", b"", lifetime_ms)).unwrap();
        assert!(exchange.renew_after().unwrap().as_millis() > 1_000, "{lifetime_ms}");
    }
}

fn aws(jaas: &str, region: &str) -> (tempfile::TempDir, Result<SaslLogin, SecurityError>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    std::fs::write(&file, "[default]\naws_access_key_id=AKID\naws_secret_access_key=hunter2\n").unwrap();
    let aws = crate::security::AwsSettings { region: region.to_owned(), credentials_file: Some(file) };
    let mechanism = Some(SaslMechanism::AwsMskIam);
    let settings = SaslSettings { mechanism, jaas_config: jaas.into(), aws, ..Default::default() };
    let login = SaslLogin::new(&settings, &Default::default());
    (directory, login)
}

#[test]
fn aws_signs_for_the_brokers_region_and_takes_no_empty_answer() {
    let (_directory, login) = aws("", "");
    let login = login.unwrap();
    let told = login.exchange("10.0.0.1").unwrap_err().to_string();
    assert!(told.contains("sasl.aws.region"), "{told}");
    let host = "b-1.c.kafka.eu-west-1.amazonaws.com";
    let mut exchange = login.exchange(host).unwrap();
    let frame = shake(&mut exchange);
    let text = String::from_utf8_lossy(&frame).into_owned();
    assert!(text.contains("/eu-west-1/kafka-cluster/") && !text.contains("hunter2"), "{text}");
    assert!(exchange.answer(&authenticate_answer(&frame, 0, "", b"", 0)).is_err());
    let mut exchange = login.exchange(host).unwrap();
    let frame = shake(&mut exchange);
    exchange.answer(&authenticate_answer(&frame, 0, "", b"{}", 60_000)).unwrap();
    assert!(exchange.is_done() && !format!("{exchange:?}").contains("hunter2"));
    let module = "software.amazon.msk.auth.iam.IAMLoginModule";
    let role = format!("{module} required awsRoleArn=\"arn:aws:iam::1:role/x\";");
    let refused = aws(&role, "").1.err().unwrap().to_string();
    assert!(refused.contains("awsRoleArn is not supported"), "{refused}");
    let refused = aws(&format!("{module} required awsProfileName=\"other\";"), "").1.err().unwrap();
    assert!(refused.to_string().contains("no profile [other]"), "{refused}");
}
