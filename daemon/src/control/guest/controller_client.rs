//! Requests to the active controller, whoever that is at the time.
//!
//! One connection, one request at a time. A broken connection and a controller that is not the active one
//! are each tried once more: the first is how an idle connection ends, the second how a controller's
//! restart looks. Everything else is the caller's to judge.

use super::controllers::Controllers;
use crate::config::HostPort;
use crate::control::source_client::{ClientError, Connection, ConnectionOptions, Shaped};
use kafka_protocol::messages::{
    AllocateProducerIdsResponse, AlterPartitionReassignmentsResponse, AlterPartitionResponse,
    BrokerHeartbeatResponse, BrokerRegistrationResponse, CreatePartitionsResponse, CreateTopicsResponse,
    DeleteTopicsResponse, DescribeConfigsResponse, ElectLeadersResponse, IncrementalAlterConfigsResponse,
    UnregisterBrokerResponse,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Kafka's code of a request that only the active controller can answer.
const NOT_CONTROLLER: i16 = 41;

/// Why a request to the controller brought nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerError {
    Client(ClientError),
    /// No controller was known to be active for as long as a request may take.
    NoController {
        after: Duration,
    },
}

impl fmt::Display for ControllerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "{error}"),
            Self::NoController { after } => {
                write!(f, "no controller of the cluster was active for {} ms", after.as_millis())
            }
        }
    }
}

impl std::error::Error for ControllerError {}

/// An answer that can say that it was given by the wrong controller.
pub trait ControllerAnswer {
    fn is_from_inactive(&self) -> bool;
}

macro_rules! says_so_on_top {
    ($($answer:ty),*) => {$(
        impl ControllerAnswer for $answer {
            fn is_from_inactive(&self) -> bool {
                self.error_code == NOT_CONTROLLER
            }
        }
    )*};
}

/// For these the code in front of the answer speaks for all of it. Deeper down, AlterPartition uses the same
/// number for a leader epoch that it does not know yet.
macro_rules! says_so_in_each {
    ($($answer:ty, $items:ident);*) => {$(
        impl ControllerAnswer for $answer {
            fn is_from_inactive(&self) -> bool {
                self.$items.iter().any(|item| item.error_code == NOT_CONTROLLER)
            }
        }
    )*};
}

says_so_on_top!(
    AllocateProducerIdsResponse,
    AlterPartitionReassignmentsResponse,
    AlterPartitionResponse,
    BrokerHeartbeatResponse,
    BrokerRegistrationResponse,
    ElectLeadersResponse,
    UnregisterBrokerResponse
);
says_so_in_each!(
    CreatePartitionsResponse, results;
    CreateTopicsResponse, topics;
    DeleteTopicsResponse, responses;
    DescribeConfigsResponse, results;
    IncrementalAlterConfigsResponse, responses
);

/// See the file's header.
pub struct ControllerClient {
    controllers: Arc<Controllers>,
    options: ConnectionOptions,
    held: Option<(HostPort, Connection)>,
    /// Whom the request under way waits for.
    asking: Option<HostPort>,
}

impl ControllerClient {
    pub fn new(controllers: Arc<Controllers>, options: ConnectionOptions) -> Self {
        Self { controllers, options, held: None, asking: None }
    }

    /// Sends what `request` makes for the negotiated version to the active controller. All of it, looking
    /// for the controller, connecting and trying again included, takes at most the request timeout.
    pub async fn ask<R: Shaped>(&mut self, request: impl Fn(i16) -> R) -> Result<R::Response, ControllerError>
    where
        R::Response: ControllerAnswer,
    {
        let after = self.options.request_timeout;
        if let Ok(answer) = timeout(after, self.ask_twice(&request)).await {
            return answer;
        }
        let Some(server) = self.asking.take() else { return Err(ControllerError::NoController { after }) };
        self.controllers.doubt(&server);
        Err(ControllerError::Client(ClientError::TimedOut { server, request: R::NAME, after }))
    }

    async fn ask_twice<R: Shaped>(
        &mut self,
        request: &impl Fn(i16) -> R,
    ) -> Result<R::Response, ControllerError>
    where
        R::Response: ControllerAnswer,
    {
        let answer = match self.try_once(request).await {
            Ok(answer) if !answer.is_from_inactive() => return Ok(answer),
            Ok(_)
            | Err(ClientError::Network { .. } | ClientError::Connect { .. } | ClientError::Resolve { .. }) => {
                self.try_once(request).await
            }
            Err(error) => Err(error),
        };
        answer.map_err(ControllerError::Client)
    }

    async fn try_once<R: Shaped>(&mut self, request: &impl Fn(i16) -> R) -> Result<R::Response, ClientError>
    where
        R::Response: ControllerAnswer,
    {
        self.asking = None;
        let active = self.controllers.active().await;
        self.asking = Some(active.clone());
        // Taken out: a request that is given up half way must not leave its answer to the next one.
        let reused = self.held.take().filter(|(server, _)| *server == active);
        let was_reused = reused.is_some();
        let answer = self.exchange(&active, reused.map(|(_, connection)| connection), request).await;
        let doubtful = match &answer {
            Ok(answer) => answer.is_from_inactive(),
            // An idle connection that ended says nothing about its controller; a fresh one does.
            Err(ClientError::Network { .. }) => !was_reused,
            Err(_) => true,
        };
        if doubtful {
            self.controllers.doubt(&active);
        }
        answer
    }

    async fn exchange<R: Shaped>(
        &mut self,
        active: &HostPort,
        reused: Option<Connection>,
        request: &impl Fn(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let mut connection = match reused {
            Some(connection) => connection,
            None => Connection::open(active, &self.options).await?,
        };
        let version = connection.version::<R>()?;
        let answer = connection.exchange(&request(version), version).await?;
        self.held = Some((active.clone(), connection));
        Ok(answer)
    }
}
