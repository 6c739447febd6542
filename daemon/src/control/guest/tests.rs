//! The client of the active controller against peers that are not active, go away, or answer rightly.

use super::membership_thread::cordoned;
use super::*;
use crate::security::ClientSecurity;
use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse, ResponseHeader,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENT: Duration = Duration::from_secs(60);
const OFFERED_MAX: i16 = 2;

/// The body of the next request behind its correlation id; the answer's frame is left to the caller.
async fn next_request(stream: &mut TcpStream) -> (i16, i16, i32, Vec<u8>) {
    let length = stream.read_i32().await.unwrap();
    let (key, version) = (stream.read_i16().await.unwrap(), stream.read_i16().await.unwrap());
    let correlation_id = stream.read_i32().await.unwrap();
    let mut rest = vec![0; length as usize - 8];
    stream.read_exact(&mut rest).await.unwrap();
    (key, version, correlation_id, rest)
}

async fn answer<R: Request>(stream: &mut TcpStream, correlation_id: i32, version: i16, answer: &R::Response) {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut bytes, <R::Response as HeaderVersion>::header_version(version)).unwrap();
    answer.encode(&mut bytes, version).unwrap();
    let length = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&bytes).await.unwrap();
}

/// A controller that answers one connection: versions, then each code in turn, then it hangs up.
async fn controller(listener: &TcpListener, codes: &[i16]) -> Vec<Vec<u8>> {
    let mut stream = listener.accept().await.unwrap().0;
    let (_, _, correlation_id, _) = next_request(&mut stream).await;
    let key = ApiVersion::default().with_api_key(BrokerHeartbeatRequest::KEY).with_max_version(OFFERED_MAX);
    let versions = ApiVersionsResponse::default().with_api_keys(vec![key]);
    answer::<ApiVersionsRequest>(&mut stream, correlation_id, 0, &versions).await;
    let mut bodies = Vec::new();
    for code in codes {
        let (key, version, correlation_id, body) = next_request(&mut stream).await;
        assert_eq!((key, version), (BrokerHeartbeatRequest::KEY, OFFERED_MAX));
        let heartbeat = BrokerHeartbeatResponse::default().with_error_code(*code).with_is_fenced(false);
        answer::<BrokerHeartbeatRequest>(&mut stream, correlation_id, 1, &heartbeat).await;
        bodies.push(body);
    }
    bodies
}

async fn listen() -> (TcpListener, HostPort) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, HostPort { host: "127.0.0.1".to_owned(), port })
}

fn client(controllers: &Arc<Controllers>, request_timeout: Duration) -> ControllerClient {
    let client_id = "test".to_owned();
    let security = ClientSecurity::plaintext();
    ControllerClient::new(controllers.clone(), ConnectionOptions { client_id, request_timeout, security })
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

async fn heartbeat(client: &mut ControllerClient) -> Result<i16, ControllerError> {
    let request = |version| cordoned(BrokerHeartbeatRequest::default(), version, [9; 16]);
    client.ask(request).await.map(|answer| answer.error_code)
}

#[test]
fn a_controller_that_is_not_active_is_doubted_and_its_successor_asked() {
    run(async {
        let ((old, old_address), (new, new_address)) = (listen().await, listen().await);
        let controllers = Controllers::new(vec![old_address.clone()]);
        controllers.announce(&old_address);
        let mut client = client(&controllers, PATIENT);
        let peers = async {
            controller(&old, &[0, 41]).await;
            controllers.announce(&new_address);
            controller(&new, &[0]).await
        };
        let asked = async {
            assert_eq!(heartbeat(&mut client).await, Ok(0));
            assert_eq!(heartbeat(&mut client).await, Ok(0));
        };
        let (bodies, ()) = tokio::join!(peers, asked);
        let cordon = [vec![1, 1, 17, 2], vec![9; 16]].concat();
        assert!(bodies[0].ends_with(&cordon), "one tag, number 1, 17 bytes: a list of one: {:?}", bodies[0]);
    });
}

#[test]
fn an_idle_connection_that_ended_costs_one_more_try_and_no_doubt() {
    run(async {
        let (listener, address) = listen().await;
        let controllers = Controllers::new(vec![address.clone()]);
        controllers.announce(&address);
        let mut client = client(&controllers, PATIENT);
        let (_, first) = tokio::join!(controller(&listener, &[0]), heartbeat(&mut client));
        let (_, second) = tokio::join!(controller(&listener, &[0]), heartbeat(&mut client));
        assert_eq!((first, second), (Ok(0), Ok(0)));
        assert_eq!(controllers.active().await, address);
    });
}

#[test]
fn without_an_active_controller_a_request_ends_with_its_time() {
    run(async {
        let (_listener, address) = listen().await;
        let controllers = Controllers::new(vec![address]);
        let after = Duration::from_millis(1);
        let refused = heartbeat(&mut client(&controllers, after)).await;
        assert_eq!(refused, Err(ControllerError::NoController { after }));
    });
}

#[test]
fn an_older_controller_is_sent_no_cordon() {
    let request = cordoned(BrokerHeartbeatRequest::default(), 1, [9; 16]);
    assert!(request.unknown_tagged_fields.is_empty());
}
