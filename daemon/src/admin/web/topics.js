// Mirror topics, one row each; a row opens to its partitions and to what can be ordered for it.

import { badge, by, keyed, make, mark, renewBadge, say, sayFigure, tone } from './elements.js';
import { bytes, count, moment, span, tellAge } from './figures.js';
import { remember, renewSpark, spark } from './history.js';
import { VERBS } from './orders.js';
import { beginPartitions, renewPartitions } from './partitions.js';

/** Rows that are drawn; a thousand lines that move are more than anybody reads, and keep a browser busy. */
const ROWS_STEP = 100;

const opened = new Set();
let shown = ROWS_STEP;
let topics = [];
let order = () => {};

export const nameOf = (topic) => `${topic.link_name}:${topic.mirror_topic_name}`;

const RANKS = { bad: 0, hold: 1, info: 2, good: 3 };
const byName = (one, other) => (nameOf(one) < nameOf(other) ? -1 : 1);
// What is not known may be the worst.
const worst = (name) => (one, other) => (other[name] ?? Infinity) - (one[name] ?? Infinity) || byName(one, other);
const ORDERS = {
  trouble: (one, other) => RANKS[tone(one.state)] - RANKS[tone(other.state)] || byName(one, other),
  name: byName,
  lag: (one, other) => compare(worst('lag'), one, other),
  behind: (one, other) => compare(worst('lag_ms'), one, other),
};

/** Infinity less itself is no number. */
function compare(how, one, other) {
  const found = how(one, other);
  return Number.isNaN(found) ? byName(one, other) : found;
}

/** `give` is called with a verb and a topic when somebody wants to order something. */
export function beginTopics(give) {
  order = give;
  by('filter').addEventListener('input', () => {
    shown = ROWS_STEP;
    draw();
  });
  by('order').addEventListener('change', draw);
  by('more').addEventListener('click', () => {
    shown += ROWS_STEP;
    draw();
  });
}

export function renewTopics(all) {
  topics = all;
  for (const topic of all) remember(`lag:${nameOf(topic)}`, topic.lag);
  draw();
}

function draw() {
  const wanted = by('filter').value.trim().toLowerCase();
  const found = topics.filter((topic) => topic.mirror_topic_name.toLowerCase().includes(wanted));
  found.sort(ORDERS[by('order').value]);
  const troubled = topics.filter((topic) => tone(topic.state) === 'bad').length;
  const of = found.length === topics.length ? `${topics.length}` : `${found.length} of ${topics.length}`;
  say(by('topics-count'), `${of}${troubled > 0 ? `, ${troubled} in trouble` : ''}`);
  keyed(by('topic-table'), found.slice(0, shown), nameOf, beginTopic, renewTopic);
  by('no-topics').hidden = found.length > 0;
  say(by('no-topics'), topics.length === 0 ? 'There are no mirror topics yet.' : 'No topic has this in its name.');
  by('more').hidden = found.length <= shown;
  say(by('more'), `Show ${Math.min(ROWS_STEP, found.length - shown)} more of ${found.length}`);
}

function beginTopic(topic) {
  const name = nameOf(topic);
  const id = `partitions-${name}`;
  const fold = make('button', { type: 'button', class: 'fold', 'aria-expanded': 'false', 'aria-controls': id, text: topic.mirror_topic_name });
  const link = make('span', { class: 'quiet', text: ` ${topic.link_name}` });
  const [state, under] = [badge(), make('span', { class: 'under' })];
  const figures = ['Lag, records', 'Lag, time', 'Lag, bytes'].map((each) => make('td', { role: 'cell', class: 'figure', 'data-name': each }));
  const [line, age] = [spark(), make('td', { role: 'cell', class: 'figure age', 'data-name': 'Confirmed' })];
  const row = make('tr', { role: 'row', class: 'row' },
    make('th', { role: 'rowheader', scope: 'row' }, fold, link),
    make('td', { role: 'cell', 'data-name': 'State' }, state.node, under),
    ...figures,
    make('td', { role: 'cell', class: 'line', 'data-name': 'Lag over time' }, line.node),
    age);
  const panel = make('td', { role: 'cell', colspan: '7', id });
  const detail = make('tr', { role: 'row', class: 'detail', hidden: true }, panel);
  const parts = { node: make('tbody', { role: 'rowgroup', 'data-topic': name }, row, detail), fold, state, under, figures, line, age, detail, panel, inside: null, topic };
  fold.addEventListener('click', () => {
    if (!opened.delete(name)) opened.add(name);
    renewTopic(parts, parts.topic);
  });
  return parts;
}

function renewTopic(row, topic) {
  row.topic = topic;
  renewBadge(row.state, topic.state);
  say(row.under, underState(topic));
  sayFigure(row.figures[0], count(topic.lag));
  sayFigure(row.figures[1], span(topic.lag_ms, topic.lag_ms_at_least));
  sayFigure(row.figures[2], bytes(topic.lag_bytes, topic.lag_bytes_estimated));
  renewSpark(row.line, `lag:${nameOf(topic)}`, `lag of ${topic.mirror_topic_name} in records`, count);
  tellAge(row.age, topic.lag_age_ms);
  const isOpen = opened.has(nameOf(topic));
  mark(row.fold, 'aria-expanded', String(isOpen));
  row.detail.hidden = !isOpen;
  if (!isOpen) return;
  row.inside ??= beginInside(row);
  renewInside(row.inside, topic);
}

/** What goes on, or why it does not: the most urgent of it. */
function underState(topic) {
  const { hand_over: handOver, deletion } = topic;
  if (deletion) return `deletion: ${deletion.step}${deletion.error ? `, ${deletion.error}` : ''}`;
  if (handOver) return `${handOver.kind}: ${handOver.step}${handOver.error ? `, ${handOver.error}` : ''}`;
  return tone(topic.state) === 'good' ? topic.code : topic.reason;
}

function beginInside(row) {
  const facts = make('dl', { class: 'facts' });
  const buttons = Object.entries(VERBS).map(([verb, { name }]) => make('button', {
    type: 'button', class: 'plain', 'data-verb': verb, text: `${name} …`, onclick: () => order(verb, row.topic),
  }));
  const partitions = beginPartitions(row.topic.mirror_topic_name);
  row.panel.append(make('div', { class: 'inside' }, facts, make('div', { class: 'buttons' }, ...buttons)), partitions.node);
  return { facts, buttons, partitions };
}

function renewInside(inside, topic) {
  const told = (text) => ({ text, isUnknown: false });
  const facts = [
    ['in this state since', moment(topic.state_time_ms)],
    ['because', told(topic.reason || 'nothing to explain')],
    ['copy', told(topic.exactness)],
    ['to high watermark', count(topic.high_watermark_lag)],
    ['oldest open transaction', topic.oldest_open_transaction_ms === 0 ? told('none') : span(topic.oldest_open_transaction_ms)],
  ];
  if (topic.source_topic_name !== topic.mirror_topic_name) facts.unshift(['source topic', told(topic.source_topic_name)]);
  const stored = topic.hand_over?.stored;
  if (stored) facts.push(['ready to adopt', told(`${stored.directory}, ${stored.partitions.length} partitions`)]);
  if (topic.code) facts.push(['code', told(topic.code)]);
  for (const repair of topic.replica_repairs) facts.push([`partition ${repair.partition_id} waits for`, told(repair.waits_for)]);
  keyed(inside.facts, facts, ([name]) => name, ([name]) => {
    const value = make('dd');
    return { node: make('div', {}, make('dt', { text: name }), value), value };
  }, (row, [, figure]) => sayFigure(row.value, figure));
  for (const button of inside.buttons) button.hidden = !VERBS[button.dataset.verb].fits(topic);
  renewPartitions(inside.partitions, topic.partitions);
}
