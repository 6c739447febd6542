//! The screen of `twinlog top`: what it knows, what keys mean, and how it is drawn.
//!
//! Owns no terminal, no clock and no connection: answers, keys and times are given to it, and it says what it wants.
//! A figure that is not known is drawn as unknown, and every figure with its age.

use super::table::{age, figure, lag_bytes, lag_time, span};
use crate::admin::answer::{MirrorActionView, MirrorTopicView, PartitionView, StatusView};
use crate::admin::{answer::LinkView, client::ClientError};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Looks whose lag is drawn as a line; each is one letter wide.
const HISTORY_MAX: usize = 24;
/// Alarms that are drawn; the others are counted, so that topics keep their place.
const ALARMS_MAX: usize = 4;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Without an answer for so long, what is shown is called old.
const OLD: Duration = Duration::from_secs(5);

/// Everything of one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub status: StatusView,
    pub links: Vec<LinkView>,
    pub topics: Vec<MirrorTopicView>,
}

/// A topic to pause, or to resume where it is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub link: String,
    pub topic: String,
    pub is_resume: bool,
}

impl Order {
    pub const fn verb(&self) -> &'static str {
        if self.is_resume { "resume" } else { "pause" }
    }
}

/// What a key asks for beyond the screen itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Quit,
    /// Find out, change nothing.
    Try(Order),
    Carry(Order),
}

/// An order that waits for a word.
struct Question {
    order: Order,
    /// `None`: the dry run is under way.
    dry: Option<Result<String, String>>,
}

type Name = (String, String);

/// Where a topic stood at the last look, and what its lag was before.
struct Kept {
    records: Option<i64>,
    per_second: Option<f64>,
    lags: VecDeque<Option<i64>>,
}

/// See the file's header.
pub struct Screen {
    look: Look,
    looked: Instant,
    /// Why the last question had no answer.
    trouble: Option<String>,
    kept: BTreeMap<Name, Kept>,
    chosen: Option<Name>,
    is_open: bool,
    /// Rows above the first one that is drawn.
    topics: TableState,
    partitions: TableState,
    question: Option<Question>,
    said: Option<String>,
}

fn name_of(topic: &MirrorTopicView) -> Name {
    (topic.link_name.clone(), topic.mirror_topic_name.clone())
}

impl Screen {
    pub fn new(look: Look, now: Instant) -> Self {
        let mut screen = Self {
            look: Look::default(),
            looked: now,
            trouble: None,
            kept: BTreeMap::new(),
            chosen: None,
            is_open: false,
            topics: TableState::default(),
            partitions: TableState::default(),
            question: None,
            said: None,
        };
        screen.renew(Ok(look), now);
        screen
    }

    pub fn renew(&mut self, outcome: Result<Look, ClientError>, now: Instant) {
        let mut look = match outcome {
            Ok(look) => look,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return;
            }
        };
        // What is not known may be the worst.
        look.topics
            .sort_by_cached_key(|topic| (std::cmp::Reverse(topic.lag.unwrap_or(i64::MAX)), name_of(topic)));
        let seconds = now.saturating_duration_since(self.looked).as_secs_f64();
        let mut before = std::mem::take(&mut self.kept);
        for topic in &look.topics {
            let records = topic.partitions.iter().map(|partition| partition.log_end).sum::<Option<i64>>();
            let known = before.remove(&name_of(topic));
            let grown =
                records.zip(known.as_ref().and_then(|known| known.records)).map(|(now, then)| now - then);
            // A log that was cut is shorter than before: nothing was delivered.
            let per_second =
                grown.filter(|grown| seconds > 0.0 && *grown >= 0).map(|grown| grown as f64 / seconds);
            let mut lags = known.map(|known| known.lags).unwrap_or_default();
            lags.push_back(topic.lag);
            if lags.len() > HISTORY_MAX {
                lags.pop_front();
            }
            self.kept.insert(name_of(topic), Kept { records, per_second, lags });
        }
        (self.look, self.looked, self.trouble) = (look, now, None);
        if self.chosen_topic().is_none() {
            self.chosen = self.look.topics.first().map(name_of);
            self.is_open = false;
        }
    }

    /// A dry run is back.
    pub fn tried(&mut self, order: &Order, outcome: Result<Vec<MirrorActionView>, ClientError>) {
        if let Some(question) = self.question.as_mut().filter(|question| question.order == *order) {
            question.dry = Some(told(outcome));
        }
    }

    pub fn done(&mut self, order: &Order, outcome: Result<Vec<MirrorActionView>, ClientError>) {
        let (verb, topic) = (order.verb(), &order.topic);
        self.said = Some(match told(outcome) {
            Ok(note) if note.is_empty() => format!("{verb} {topic}: ordered"),
            Ok(note) => format!("{verb} {topic}: {note}"),
            Err(why) => format!("{verb} {topic} is refused: {why}"),
        });
    }

    fn chosen_index(&self) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        self.look.topics.iter().position(|topic| name_of(topic) == *chosen)
    }

    fn chosen_topic(&self) -> Option<&MirrorTopicView> {
        self.chosen_index().map(|index| &self.look.topics[index])
    }

    /// What a key means now.
    pub fn press(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Wish::Quit);
        }
        if let Some(question) = self.question.take() {
            return match (key.code, &question.dry) {
                (KeyCode::Char('y'), Some(Ok(_))) => Some(Wish::Carry(question.order)),
                (KeyCode::Char('n' | 'q') | KeyCode::Esc, _) => None,
                // Any other key is no answer.
                _ => {
                    self.question = Some(question);
                    None
                }
            };
        }
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Esc => self.is_open = false,
            KeyCode::Enter => {
                self.is_open = !self.is_open && self.chosen_topic().is_some();
                self.partitions = TableState::default().with_selected(0);
            }
            KeyCode::Up => self.go(-1),
            KeyCode::Down => self.go(1),
            KeyCode::PageUp => self.go(-10),
            KeyCode::PageDown => self.go(10),
            KeyCode::Char('p') => {
                let topic = self.chosen_topic()?;
                let order = Order {
                    link: topic.link_name.clone(),
                    topic: topic.mirror_topic_name.clone(),
                    is_resume: topic.state == "PAUSED",
                };
                self.question = Some(Question { order: order.clone(), dry: None });
                return Some(Wish::Try(order));
            }
            _ => {}
        }
        None
    }

    fn go(&mut self, rows: isize) {
        let moved = |from: usize, count: usize| from.saturating_add_signed(rows).min(count.saturating_sub(1));
        match self.chosen_topic().filter(|_| self.is_open) {
            Some(topic) => {
                let (from, count) = (self.partitions.selected().unwrap_or(0), topic.partitions.len());
                self.partitions.select(Some(moved(from, count)));
            }
            None => {
                let index = moved(self.chosen_index().unwrap_or(0), self.look.topics.len());
                self.chosen = self.look.topics.get(index).map(name_of);
            }
        }
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>, now: Instant) {
        let alarms = self.alarms();
        let (links, alarm_lines) = (self.links(), u16::try_from(alarms.len()).unwrap_or(0));
        let link_lines = u16::try_from(links.len()).unwrap_or(1).clamp(1, 8);
        let [head, link_area, alarm_area, body, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(link_lines),
            Constraint::Length(alarm_lines),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(now), head);
        frame.render_widget(Paragraph::new(links), link_area);
        frame.render_widget(Paragraph::new(alarms), alarm_area);
        if self.is_open {
            self.draw_partitions(frame, body)
        } else {
            self.draw_topics(frame, body)
        }
        frame.render_widget(Paragraph::new(self.foot()).style(dim()), foot);
        if let Some(question) = &self.question {
            draw_question(frame, question);
        }
    }

    fn head(&self, now: Instant) -> Line<'_> {
        let StatusView { version, uptime_ms, totals, .. } = &self.look.status;
        let silent = now.saturating_duration_since(self.looked);
        let fresh = format!("answered {} ago", span(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)));
        let is_old = self.trouble.is_some() || silent > OLD;
        let risk = lag_time(totals.recovery_point.rpo_ms, false);
        Line::from(vec![
            Span::styled(format!("twinlog {version} "), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "up {}, {} topics, {} partitions, {} stopped, at risk {risk}  ",
                span(*uptime_ms),
                totals.mirror_topics,
                totals.partitions,
                totals.failed_partitions
            )),
            Span::styled(fresh, if is_old { bad() } else { dim() }),
        ])
    }

    fn links(&self) -> Vec<Line<'_>> {
        let line = |link: &LinkView| {
            let rates = self.kept.iter().filter(|((name, _), _)| *name == link.link_name);
            let rate = rates.map(|(_, kept)| kept.per_second).sum::<Option<f64>>();
            Line::from(vec![
                Span::raw(format!("link {} ", link.link_name)),
                Span::styled(link.link_state.clone(), tone(&link.link_state)),
                Span::raw(format!(
                    " {}, lag {} records, {} bytes, {}, {} records/s ({})",
                    link.mode,
                    figure(link.lag),
                    lag_bytes(link.lag_bytes, link.marks.lag_bytes_estimated),
                    lag_time(link.lag_ms, link.marks.lag_ms_at_least),
                    per_second(rate),
                    age(link.marks.lag_age_ms)
                )),
            ])
        };
        self.look.links.iter().map(line).collect()
    }

    fn alarms(&self) -> Vec<Line<'static>> {
        let status = &self.look.status;
        let of_links = status.links.iter().flat_map(|link| &link.alarms);
        let all: Vec<_> =
            if status.links.is_empty() { status.alarms.iter().collect() } else { of_links.collect() };
        let trouble = self.trouble.iter().map(|why| format!("no answer: {why}"));
        let shown =
            all.iter().take(ALARMS_MAX).map(|alarm| format!("alarm {}: {}", alarm.code, alarm.message));
        let rest = all.len().saturating_sub(ALARMS_MAX);
        let more = (rest > 0).then(|| format!("and {rest} more alarms: twinlog status shows them"));
        trouble.chain(shown).chain(more).map(|text| Line::styled(text, bad())).collect()
    }

    fn draw_topics(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let row = |topic: &MirrorTopicView| {
            let kept = &self.kept[&name_of(topic)];
            Row::new([
                Line::raw(topic.mirror_topic_name.clone()),
                Line::raw(topic.link_name.clone()),
                Line::styled(topic.state.clone(), tone(&topic.state)),
                Line::raw(figure(topic.lag)).right_aligned(),
                Line::raw(lag_time(topic.lag_ms, topic.marks.lag_ms_at_least)).right_aligned(),
                Line::raw(lag_bytes(topic.lag_bytes, topic.marks.lag_bytes_estimated)).right_aligned(),
                Line::raw(per_second(kept.per_second)).right_aligned(),
                Line::raw(bars(&kept.lags)),
                Line::styled(age(topic.marks.lag_age_ms), dim()).right_aligned(),
            ])
        };
        let rows: Vec<Row<'_>> = self.look.topics.iter().map(row).collect();
        let bars = u16::try_from(HISTORY_MAX).expect("a few letters");
        let widths = [
            Constraint::Min(12),
            Constraint::Max(10),
            Constraint::Length(18),
            Constraint::Length(11),
            Constraint::Length(14),
            Constraint::Length(13),
            Constraint::Length(10),
            Constraint::Max(bars),
            Constraint::Length(15),
        ];
        let names =
            ["Topic", "Link", "State", "Lag", "Time", "Bytes", "Records/s", "Lag over time", "Confirmed"];
        self.topics.select(self.chosen_index());
        let title = format!(" Mirror topics by lag, {} ", self.look.topics.len());
        frame.render_stateful_widget(whole(rows, &widths, names, title), area, &mut self.topics);
    }

    fn draw_partitions(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let Some(topic) = self.chosen_topic() else { return };
        let row = |partition: &PartitionView| {
            let in_sync = partition.followers.iter().filter(|follower| follower.in_sync).count();
            Row::new([
                Line::raw(partition.partition_id.to_string()).right_aligned(),
                Line::styled(partition.state.clone(), tone(&partition.state)),
                Line::raw(figure(partition.lag)).right_aligned(),
                Line::raw(lag_time(partition.lag_ms, partition.marks.lag_ms_at_least)).right_aligned(),
                Line::raw(lag_bytes(partition.lag_bytes, partition.marks.lag_bytes_estimated))
                    .right_aligned(),
                Line::raw(figure(partition.log_end)).right_aligned(),
                Line::raw(format!("{in_sync} of {}", partition.followers.len())).right_aligned(),
                Line::raw(format!("{} {}", partition.code, partition.reason)),
                Line::styled(age(partition.marks.lag_age_ms), dim()).right_aligned(),
            ])
        };
        let rows: Vec<Row<'_>> = topic.partitions.iter().map(row).collect();
        let widths = [
            Constraint::Length(9),
            Constraint::Length(12),
            Constraint::Length(11),
            Constraint::Length(14),
            Constraint::Length(13),
            Constraint::Length(14),
            Constraint::Length(8),
            Constraint::Min(8),
            Constraint::Length(15),
        ];
        let names =
            ["Partition", "State", "Lag", "Time", "Bytes", "Log end", "In sync", "Because", "Confirmed"];
        let why = if topic.reason.is_empty() { String::new() } else { format!(": {}", topic.reason) };
        let title = format!(" {}, {}{why} ", topic.mirror_topic_name, topic.state);
        frame.render_stateful_widget(whole(rows, &widths, names, title), area, &mut self.partitions);
    }

    fn foot(&self) -> String {
        let keys = match self.is_open {
            true => "q quit  esc topics  arrows move  p pause or resume",
            false => "q quit  arrows move  enter partitions  p pause or resume",
        };
        self.said.as_ref().map_or_else(|| keys.to_owned(), |said| format!("{keys}  |  {said}"))
    }
}

fn whole<'a, const N: usize>(
    rows: Vec<Row<'a>>,
    widths: &[Constraint; N],
    names: [&'static str; N],
    title: String,
) -> Table<'a> {
    Table::new(rows, widths)
        .header(Row::new(names.map(head_of)).style(dim()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .highlight_symbol("> ")
        .block(Block::bordered().title(title))
}

/// Above figures, where they end.
fn head_of(name: &'static str) -> Line<'static> {
    match name {
        "Topic" | "Link" | "State" | "Lag over time" | "Because" => Line::raw(name),
        _ => Line::raw(name).right_aligned(),
    }
}

fn draw_question(frame: &mut Frame<'_>, question: &Question) {
    let Order { topic, link, .. } = &question.order;
    let verb = question.order.verb();
    let mut lines = vec![Line::raw(format!("{verb} {topic} of link {link}?"))];
    match &question.dry {
        None => lines.push(Line::styled("The daemon is asked what it would do ...", dim())),
        Some(Ok(note)) => {
            lines.push(Line::raw(format!("Dry run: it would be done. {note}")));
            lines.push(Line::styled(
                format!("y: {verb}   n: leave it"),
                Style::new().add_modifier(Modifier::BOLD),
            ));
        }
        Some(Err(why)) => {
            lines.push(Line::styled(format!("Dry run: refused. {why}"), bad()));
            lines.push(Line::raw("n: close"));
        }
    }
    let screen = frame.area();
    let (width, height) = (screen.width.min(76), screen.height.min(8));
    let area = Rect::new((screen.width - width) / 2, (screen.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" Confirm ");
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), area);
}

/// Notes of an order that is right; why it is not.
fn told(outcome: Result<Vec<MirrorActionView>, ClientError>) -> Result<String, String> {
    let actions = outcome.map_err(|error| error.to_string())?;
    if actions.is_empty() {
        return Err("no such mirror topic".to_owned());
    }
    let wrong = actions.iter().find(|action| !action.is_right());
    let Some(wrong) = wrong else {
        return Ok(actions.into_iter().filter_map(|action| action.note).collect::<Vec<_>>().join(" "));
    };
    let of_partitions = wrong.mirror_lags.iter().find_map(|each| each.error_message.clone());
    Err(wrong.error_message.clone().or(of_partitions).unwrap_or_else(|| "no reason is told".to_owned()))
}

fn per_second(records: Option<f64>) -> String {
    figure(records.map(|records| format!("{records:.0}")))
}

/// A line of lags, the newest last; what was not known leaves a hole.
fn bars(lags: &VecDeque<Option<i64>>) -> String {
    let highest = lags.iter().flatten().copied().max().unwrap_or(0).max(1);
    let last = i64::try_from(BARS.len() - 1).expect("a few bars");
    let bar = |lag: &Option<i64>| {
        lag.map_or(' ', |lag| {
            // Divided first: a lag may be near the largest number.
            let step = (lag.max(0) as f64 / highest as f64 * last as f64).round();
            BARS[step as usize]
        })
    };
    lags.iter().map(bar).collect()
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

/// The word of a state stands for itself; its colour only helps to find it.
fn tone(state: &str) -> Style {
    match state.to_ascii_uppercase().as_str() {
        "ACTIVE" => Style::new().fg(Color::Green),
        "PAUSED" | "LINK_PAUSED" | "FROZEN" => Style::new().fg(Color::Yellow),
        "FAILED" | "LINK_FAILED" | "SOURCE_UNAVAILABLE" | "UNAVAILABLE" => bad(),
        _ => Style::new().fg(Color::Cyan),
    }
}
