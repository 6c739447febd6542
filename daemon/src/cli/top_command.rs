//! `twinlog top`: the daemon on a full screen, renewed each second.
//!
//! Owns the terminal and the clock: what is drawn and what keys mean is `top_screen`'s. A daemon that does not answer
//! never holds the keys up: it is asked beside them, one question at a time.

use super::operator::{AnswerOutput, Operator, OperatorArgs, OperatorError, operate};
use super::top_screen::{Look, Order, Screen, Wish};
use super::{USAGE, refuse};
use crate::admin::answer::{LinkView, ListView, MirrorActionView, MirrorTopicView, StatusView};
use crate::admin::body::MirrorOrder;
use crate::admin::client::ClientError;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use std::collections::VecDeque;
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Keys that wait to be read; more were pressed while the terminal stood still.
const KEYS_MAX: usize = 64;

#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
}

pub fn top(arguments: &TopArgs) -> ExitCode {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let why = "top draws on a terminal, and there is none here; twinlog status tells the same once, and \
                   twinlog mirror list --output json tells it to programs";
        return refuse(USAGE, &why);
    }
    if matches!(arguments.operator.output, AnswerOutput::Json) {
        return refuse(USAGE, &"top draws, and writes no JSON; twinlog status --output json does");
    }
    operate(&arguments.operator, async |operator| {
        // Before the screen is taken: who cannot be asked at all is told in plain lines.
        let first = look(operator).await?;
        let terminal = ratatui::try_init().map_err(|error| OperatorError::Runtime { error: error.kind() })?;
        let outcome = show(terminal, operator, first).await;
        ratatui::restore();
        outcome.map(|()| true)
    })
}

type Asked<'a> = Pin<Box<dyn Future<Output = Told> + 'a>>;

/// What a question or an order brought.
enum Told {
    Look(Box<Result<Look, ClientError>>),
    Tried(Order, Result<Vec<MirrorActionView>, ClientError>),
    Done(Order, Result<Vec<MirrorActionView>, ClientError>),
}

async fn show(mut terminal: DefaultTerminal, operator: &Operator, first: Look) -> Result<(), OperatorError> {
    let failed = |error: std::io::Error| OperatorError::Runtime { error: error.kind() };
    let mut screen = Screen::new(first, Instant::now());
    let mut keys = keys();
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looking, mut ordering): (Option<Asked<'_>>, Option<Asked<'_>>) = (None, None);
    // One after the other: an order that is under way is not given up for the next one.
    let mut orders: VecDeque<(Order, bool)> = VecDeque::new();
    loop {
        if ordering.is_none()
            && let Some((order, is_dry_run)) = orders.pop_front()
        {
            ordering = Some(Box::pin(carry(operator, order, is_dry_run)));
        }
        terminal.draw(|frame| screen.draw(frame, Instant::now())).map_err(failed)?;
        let told = tokio::select! {
            event = keys.recv() => {
                let Some(event) = event else { return Ok(()) };
                let Event::Key(key) = event else { continue };
                match screen.press(key) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(Wish::Try(order)) => orders.push_back((order, true)),
                    Some(Wish::Carry(order)) => orders.push_back((order, false)),
                    None => {}
                }
                continue;
            }
            _ = ticks.tick() => {
                if looking.is_none() {
                    looking = Some(Box::pin(async { Told::Look(Box::new(look(operator).await)) }));
                }
                continue;
            }
            told = asked(&mut looking) => told,
            told = asked(&mut ordering) => told,
        };
        match told {
            Told::Look(outcome) => screen.renew(*outcome, Instant::now()),
            Told::Tried(order, outcome) => screen.tried(&order, outcome),
            Told::Done(order, outcome) => screen.done(&order, outcome),
        }
    }
}

/// Waits for ever where nothing is asked; what was answered is asked no more.
async fn asked(question: &mut Option<Asked<'_>>) -> Told {
    match question {
        Some(asked) => {
            let told = asked.await;
            *question = None;
            told
        }
        None => std::future::pending().await,
    }
}

/// Reads keys on a thread of its own, which ends with the program: reading cannot be ended otherwise.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

async fn look(operator: &Operator) -> Result<Look, ClientError> {
    let link = operator.named_link().unwrap_or("-");
    let mirrors = Operator::path(link, "mirrors");
    let status: StatusView = operator.client.get("/twinlog/v1/status").await?;
    let links: ListView<LinkView> = operator.client.list("/kafka/v3/clusters/-/links").await?;
    let topics: ListView<MirrorTopicView> = operator.client.list(&mirrors).await?;
    let mut links = links.data;
    links.retain(|each| operator.named_link().is_none_or(|name| each.link_name == name));
    Ok(Look { status, links, topics: topics.data })
}

async fn carry(operator: &Operator, order: Order, validate_only: bool) -> Told {
    let body = MirrorOrder {
        mirror_topic_names: vec![order.topic.clone()],
        validate_only: Some(validate_only),
        ..MirrorOrder::default()
    };
    let path = Operator::path(&order.link, &format!("mirrors:{}", order.verb()));
    let answer: Result<ListView<MirrorActionView>, _> = operator.client.post(&path, &body).await;
    let outcome = answer.map(|answer| answer.data);
    if validate_only { Told::Tried(order, outcome) } else { Told::Done(order, outcome) }
}
