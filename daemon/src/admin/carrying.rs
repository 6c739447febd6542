//! From a request that is understood to the supervisor's answer, or to the state's.
//!
//! It never waits for the queue of the supervisor: a full one is told at once.

use super::answer::{ListView, MirrorActionView};
use super::group_name::escaped;
use super::page::Page;
use super::response::{Answer, metrics_text, one, text, web_file};
use super::route::Asked;
use super::server::{Backend, Readiness};
use super::{AdminError, AdminRequest, ErrorCode, audit, openapi};
use hyper::StatusCode;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long the supervisor may take: it asks clusters that may be slow, never those that are gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The kind of every list of what orders did.
const ACTIONS: &str = "KafkaAlterMirrorStatusResponseDataList";

/// An answer, and the code of the first topic that was refused in it.
pub(super) type Carried = (Answer, String);

/// Asks and writes down what is answered.
pub(super) async fn carry(asked: Asked, path: &str, backend: &Backend) -> Result<Carried, AdminError> {
    use AdminRequest as R;
    let to = &backend.requests;
    let answer = match asked {
        Asked::Page(file) => web_file(file),
        Asked::Description => one(openapi::document()),
        Asked::Health => text(StatusCode::OK, "ok"),
        Asked::Readiness => match backend.readiness.borrow().clone() {
            Readiness::Ready => text(StatusCode::OK, "ready"),
            Readiness::NotReady { why } => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        Asked::Status => one(&ask(to, |reply| R::Status { reply }).await?),
        Asked::Metrics => metrics_text(ask(to, |reply| R::Metrics { reply }).await?.text()),
        Asked::Audit { limit } => {
            let data = audit::newest(&backend.state, limit).await?;
            let metadata = super::answer::Metadata { path: path.to_owned(), next: None };
            one(&ListView { kind: "TwinlogAuditList".to_owned(), metadata, data })
        }
        Asked::Clusters { page } => {
            let all = ask(to, |reply| R::ListClusters { reply }).await?;
            list("KafkaClusterList", path, &page, all, |each| each.cluster_id.clone())
        }
        Asked::Links { cluster, page } => {
            let all = ask(to, |reply| R::ListLinks { cluster, reply }).await?;
            list("KafkaLinkDataList", path, &page, all, |each| each.link_name.clone())
        }
        Asked::Link { at } => one(&ask(to, |reply| R::DescribeLink { at, reply }).await?),
        Asked::Mirrors { cluster, link, page } => {
            let all = ask(to, |reply| R::ListMirrors { cluster, link, reply }).await?;
            list("KafkaMirrorDataList", path, &page, all, |each| {
                format!("{}:{}", each.link_name, each.mirror_topic_name)
            })
        }
        Asked::Mirror { at, topic } => one(&ask(to, |reply| R::DescribeMirror { at, topic, reply }).await?),
        Asked::Groups { at, page } => {
            let all = ask(to, |reply| R::ListGroups { at, reply }).await?;
            list("TwinlogGroupList", path, &page, all, |each| escaped(&each.group_id))
        }
        Asked::WorstGroups { at, worst } => {
            let mut data = ask(to, |reply| R::ListGroups { at, reply }).await?;
            worst.cut(&mut data);
            let metadata = super::answer::Metadata { path: path.to_owned(), next: None };
            one(&ListView { kind: "TwinlogGroupList".to_owned(), metadata, data })
        }
        Asked::Group { at, group } => one(&ask(to, |reply| R::DescribeGroup { at, group, reply }).await?),
        Asked::LinkConfigs { at, page } => {
            let all = ask(to, |reply| R::LinkConfigs { at, reply }).await?;
            list("KafkaLinkConfigDataList", path, &page, all, |each| each.name.clone())
        }
        order => return carry_order(order, path, to).await,
    };
    Ok((answer, String::new()))
}

async fn carry_order(
    order: Asked,
    path: &str,
    to: &mpsc::Sender<AdminRequest>,
) -> Result<Carried, AdminError> {
    use AdminRequest as R;
    let done = match order {
        Asked::Create { at, names, validate_only } => {
            ask(to, |reply| R::CreateMirrors { at, names, validate_only, reply }).await?
        }
        Asked::Promote { at, selection, validate_only, allowed } => {
            ask(to, |reply| R::Promote { at, selection, validate_only, allowed, reply }).await?
        }
        Asked::Failover { at, selection, validate_only, open_transactions } => {
            let order = |reply| R::Failover { at, selection, validate_only, open_transactions, reply };
            ask(to, order).await?
        }
        Asked::Pause { at, selection, validate_only } => {
            ask(to, |reply| R::PauseMirrors { at, selection, validate_only, reply }).await?
        }
        Asked::Resume { at, selection, release, validate_only } => {
            ask(to, |reply| R::ResumeMirrors { at, selection, release, validate_only, reply }).await?
        }
        Asked::PauseLink { at, paused, validate_only } => {
            let link = ask(to, |reply| R::PauseLink { at, paused, validate_only, reply }).await?;
            return Ok((one(&link), String::new()));
        }
        Asked::CreateLink { cluster, link, changes, validate_only } => {
            let order = |reply| R::CreateLink { cluster, link, changes, validate_only, reply };
            return Ok((one(&ask(to, order).await?), String::new()));
        }
        Asked::AlterLink { at, changes, validate_only } => {
            let changed = ask(to, |reply| R::AlterLink { at, changes, validate_only, reply }).await?;
            return Ok((one(&changed), String::new()));
        }
        Asked::DeleteLink { at, force, validate_only } => {
            let deleted = ask(to, |reply| R::DeleteLink { at, force, validate_only, reply }).await?;
            return Ok((one(&deleted), String::new()));
        }
        Asked::Delete { at, topic, delete_data, validate_only } => {
            let names = vec![topic];
            ask(to, |reply| R::DeleteMirrors { at, names, delete_data, validate_only, reply }).await?
        }
        Asked::Leave { at, validate_only } => {
            let left = ask(to, |reply| R::GuestLeave { at, validate_only, reply }).await?;
            return Ok((one(&left), String::new()));
        }
        question => unreachable!("{question:?} is no order"),
    };
    let wrong = done.iter().find(|action| !action.is_right()).map(first_code).unwrap_or_default();
    let metadata = super::answer::Metadata { path: path.to_owned(), next: None };
    Ok((one(&ListView { kind: ACTIONS.to_owned(), metadata, data: done }), wrong))
}

fn first_code(action: &MirrorActionView) -> String {
    let of_partitions = action.mirror_lags.iter().find_map(|each| each.error_code.clone());
    action.error_code.clone().or(of_partitions).unwrap_or_default()
}

async fn ask<T>(
    requests: &mpsc::Sender<AdminRequest>,
    request: impl FnOnce(super::Reply<T>) -> AdminRequest,
) -> Result<T, AdminError> {
    let (reply, answered) = oneshot::channel();
    requests.try_send(request(reply)).map_err(|error| {
        let why = match error {
            mpsc::error::TrySendError::Full(_) => "the daemon is busy with earlier requests; try again",
            mpsc::error::TrySendError::Closed(_) => "the daemon is ending",
        };
        AdminError::new(ErrorCode::Busy, &why)
    })?;
    match timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            let why = "no answer: the link is being started again, or the daemon is ending; try again";
            Err(AdminError::new(ErrorCode::Busy, &why))
        }
        Err(_) => {
            let why = format!("no answer within {ANSWER_LIMIT:?}; the order may still be carried out");
            Err(AdminError::new(ErrorCode::SlowAnswer, &why))
        }
    }
}

fn list<T: Serialize>(
    kind: &str,
    path: &str,
    page: &Page,
    mut data: Vec<T>,
    name: impl Fn(&T) -> String,
) -> Answer {
    let metadata = page.cut(path, &mut data, name);
    one(&ListView { kind: kind.to_owned(), metadata, data })
}
