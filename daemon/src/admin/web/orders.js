// What can be ordered for a mirror topic. A dry run is shown first, and the topic's name has to be typed: a click in
// the wrong row must not make the wrong topic writable.

import { by, make, say } from './elements.js';
import { post, whyNot } from './api.js';
import { bytes, count, span, tellAge } from './figures.js';

const isStopped = (topic) => topic.state === 'STOPPED' || topic.state === 'PENDING_STOPPED';

/** Each with its words, when it is offered, and what may be said with it. */
export const VERBS = {
  pause: {
    name: 'Pause',
    what: 'Nothing more is fetched for this topic until it is resumed. What is copied stays as it is.',
    fits: (topic) => topic.state !== 'PAUSED' && !isStopped(topic),
    options: [],
  },
  resume: {
    name: 'Resume',
    what: 'Fetching goes on where it stood.',
    fits: (topic) => topic.state === 'PAUSED',
    options: [],
  },
  promote: {
    name: 'Promote',
    what: 'The topic becomes writable at the destination, after proof that nothing of the source is missing. Mirroring of it ends. Where the copy is a store, its files become ready to be adopted.',
    fits: (topic) => !isStopped(topic),
    options: [
      { field: 'allow_moving_source', label: 'also while the source still gets records' },
      { field: 'allow_producer_overlap', label: 'also where producers of the destination have ids of mirrored ones' },
    ],
  },
  failover: {
    name: 'Fail over',
    what: 'The topic becomes writable at once, without asking the source. What is not copied yet is lost. Mirroring of it ends. Where the copy is a store, its files become ready to be adopted.',
    fits: (topic) => !isStopped(topic),
    options: [{ field: 'open_transactions', label: 'open transactions', choices: { abort: 'are aborted after the hand-over', truncate: 'are cut off, with all that follows them' } }],
  },
};

const dialog = by('confirm');
let current = null;
/** Counts dry runs: an answer that comes after the next question is not shown. */
let asked = 0;
let whenDone = () => {};

export function beginOrders(done) {
  whenDone = done;
  by('confirm-no').addEventListener('click', () => dialog.close());
  by('dry-again').addEventListener('click', lookDry);
  by('typed').addEventListener('input', allow);
  by('confirm-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!by('confirm-yes').disabled) carryOut();
  });
  dialog.addEventListener('close', () => {
    current = null;
    asked += 1;
  });
}

export function give(verb, topic) {
  const { name, what, options } = VERBS[verb];
  current = { verb, topic, isRight: false, isGiven: false };
  say(by('confirm-title'), `${name} ${topic.mirror_topic_name}`);
  say(by('confirm-what'), what);
  say(by('dry-title'), 'Dry run');
  by('confirm-options').replaceChildren(...options.map(option));
  say(by('typed-name'), topic.mirror_topic_name);
  by('typed').value = '';
  by('confirm-typed').hidden = false;
  by('dry-again').hidden = false;
  say(by('confirm-yes'), `${name} ${topic.mirror_topic_name}`);
  by('confirm-yes').hidden = false;
  say(by('confirm-no'), 'Cancel');
  allow();
  dialog.showModal();
  by('typed').focus();
  lookDry();
}

function option({ field, label, choices }) {
  const id = `option-${field}`;
  if (choices === undefined) {
    return make('p', { class: 'option' }, make('input', { type: 'checkbox', id, 'data-field': field, onchange: lookDry }), make('label', { for: id, text: label }));
  }
  const all = Object.entries(choices).map(([value, text]) => make('option', { value, text }));
  return make('p', { class: 'option' }, make('label', { for: id, text: label }), make('select', { id, 'data-field': field, onchange: lookDry }, ...all));
}

/** What is sent: the same words for the dry run and for the order. */
function words(isDryRun) {
  const order = { mirror_topic_names: [current.topic.mirror_topic_name], validate_only: isDryRun };
  for (const field of by('confirm-options').querySelectorAll('[data-field]')) {
    if (field.type !== 'checkbox') order[field.dataset.field] = field.value;
    else if (field.checked) order[field.dataset.field] = true;
  }
  return order;
}

const pathOf = ({ topic, verb }) => `/kafka/v3/clusters/-/links/${topic.link_name}/mirrors:${verb}`;

/** The order can be given once its dry run was right and the name is typed. */
function allow() {
  const isTyped = current !== null && by('typed').value.trim() === current.topic.mirror_topic_name;
  by('confirm-yes').disabled = !(isTyped && current.isRight && !current.isGiven);
}

async function lookDry() {
  const mine = (asked += 1);
  current.isRight = false;
  allow();
  by('dry').replaceChildren(make('p', { class: 'quiet', text: 'The daemon is asked what it would do …' }));
  try {
    const { data } = await post(pathOf(current), words(true));
    if (mine !== asked) return;
    current.isRight = data.length > 0 && data.every(isRight);
    tellAge(by('dry-age'), 0);
    by('dry').replaceChildren(...data.map(told), verdict(current.isRight));
  } catch (error) {
    if (mine !== asked) return;
    by('dry').replaceChildren(make('p', { class: 'why', text: `Refused: ${whyNot(error)}` }));
  }
  allow();
}

async function carryOut() {
  current.isGiven = true;
  allow();
  const mine = (asked += 1);
  const { verb, topic } = current;
  const { name } = VERBS[verb];
  try {
    const { data } = await post(pathOf(current), words(false));
    whenDone(`${name} ${topic.mirror_topic_name}: ${data.every(isRight) ? 'ordered' : 'not done'}`);
    if (mine !== asked) return;
    if (data.every(isRight) && !data.some(({ note }) => note)) {
      dialog.close();
      return;
    }
    by('dry').replaceChildren(...data.map(told));
  } catch (error) {
    whenDone(`${name} ${topic.mirror_topic_name}: ${whyNot(error)}`);
    if (mine !== asked) return;
    by('dry').replaceChildren(make('p', { class: 'why', text: `Not done: ${whyNot(error)}` }));
  }
  say(by('dry-title'), 'What came of it');
  tellAge(by('dry-age'), 0);
  for (const id of ['confirm-typed', 'dry-again', 'confirm-yes']) by(id).hidden = true;
  by('confirm-options').replaceChildren();
  say(by('confirm-no'), 'Close');
  by('confirm-no').focus();
}

const isWrong = ({ error_message: message, error_code: code }) => Boolean(message) || Boolean(code);
const isRight = (action) => !isWrong(action) && !action.mirror_lags.some(isWrong);

function verdict(isAllRight) {
  return isAllRight
    ? make('p', { class: 'fine', text: 'The daemon would do it. Nothing has changed yet.' })
    : make('p', { class: 'why', text: 'The daemon would refuse it. Nothing can be confirmed until it would not.' });
}

function wrongText({ error_message: message, error_code: code }) {
  return [message, code ? `(${code})` : ''].filter(Boolean).join(' ');
}

/** One topic of an answer, whole: refusals, notes, what is lost, and each partition. */
function told(action) {
  const lines = [];
  if (isWrong(action)) lines.push(make('p', { class: 'why', text: wrongText(action) }));
  if (action.note) lines.push(make('p', { text: action.note }));
  if (action.consumer_group_offsets) lines.push(make('p', { class: 'quiet', text: `Offsets of consumer groups: ${action.consumer_group_offsets}` }));
  if (action.left_out_broker_ids.length > 0) {
    lines.push(make('p', { class: 'why', text: `Left out, because they are down: brokers ${action.left_out_broker_ids.join(', ')}` }));
  }
  for (const loss of action.losses) {
    lines.push(make('p', { class: 'why', text: `Partition ${loss.partition_id} loses at least ${count(loss.lost_at_least_records).text} records, about ${bytes(loss.lost_estimated_bytes).text}; the source was last heard ${span(loss.source_heard_age_ms).text} ago.` }));
  }
  for (const cut of action.cuts) {
    lines.push(make('p', { class: 'why', text: `Partition ${cut.partition_id} is cut from offset ${count(cut.from).text}; it ends at ${count(cut.to).text}.` }));
  }
  if (action.mirror_lags.length > 0) lines.push(lags(action));
  return make('div', {}, ...lines);
}

function lags(action) {
  const head = (text, kind) => make('th', { scope: 'col', class: kind, text });
  // What is wrong stands first: of a thousand partitions nobody scrolls to the one.
  const sorted = [...action.mirror_lags].sort((one, other) => isWrong(other) - isWrong(one));
  const rows = sorted.flatMap((each) => {
    const row = make('tr', {},
      make('th', { scope: 'row', text: String(each.partition_id) }),
      make('td', { class: 'figure', text: count(each.lag).text }),
      make('td', { class: 'figure', text: count(each.last_source_fetch_offset).text }));
    return isWrong(each) ? [row, make('tr', {}, make('td', { class: 'why', colspan: '3', text: wrongText(each) }))] : [row];
  });
  return make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Partitions of the dry run' }, make('table', {},
    make('caption', { class: 'hidden', text: `Partitions of ${action.mirror_topic_name}` }),
    make('thead', {}, make('tr', {}, head('Partition', ''), head('Lag', 'figure'), head('Last source offset', 'figure'))),
    make('tbody', {}, ...rows)));
}
