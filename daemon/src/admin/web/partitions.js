// The partitions of one topic: where each log stands, how far behind it is, and who follows.

import { badge, keyed, make, mark, renewBadge, say, sayFigure } from './elements.js';
import { bytes, count, span, tellAge } from './figures.js';

const COLUMNS = ['State', 'Lag, records', 'Lag, time', 'Lag, bytes', 'Log', 'High watermark', 'Epoch', 'Followers', 'Confirmed'];
const isText = (name) => name === 'State' || name === 'Followers';

export function beginPartitions(topic) {
  const head = (name, kind) => make('th', { role: 'columnheader', scope: 'col', class: kind, text: name });
  const heads = COLUMNS.map((name) => head(name, isText(name) ? '' : 'figure'));
  const caption = make('caption', { class: 'hidden', text: `Partitions of ${topic}` });
  const body = make('tbody', { role: 'rowgroup' });
  const thead = make('thead', { role: 'rowgroup' }, make('tr', { role: 'row' }, head('Partition', ''), ...heads));
  return { node: make('table', { role: 'table', class: 'wide partitions' }, caption, thead, body), body };
}

export function renewPartitions(parts, partitions) {
  keyed(parts.body, partitions, (partition) => String(partition.partition_id), beginPartition, renewPartition);
}

function beginPartition(partition) {
  const cells = Object.fromEntries(COLUMNS.map((name) => {
    const kind = isText(name) ? '' : 'figure';
    return [name, make('td', { role: 'cell', class: name === 'Confirmed' ? 'figure age' : kind, 'data-name': name })];
  }));
  const [state, why] = [badge(), make('span', { class: 'under' })];
  cells.State.append(state.node, why);
  const number = make('th', { role: 'rowheader', scope: 'row', text: String(partition.partition_id) });
  return { node: make('tr', { role: 'row' }, number, ...Object.values(cells)), cells, state, why };
}

function renewPartition(row, partition) {
  const { cells } = row;
  renewBadge(row.state, partition.state);
  say(row.why, [partition.code, partition.reason].filter(Boolean).join(': '));
  sayFigure(cells['Lag, records'], count(partition.lag));
  sayFigure(cells['Lag, time'], span(partition.lag_ms, partition.lag_ms_at_least));
  sayFigure(cells['Lag, bytes'], bytes(partition.lag_bytes, partition.lag_bytes_estimated));
  const [start, end] = [count(partition.log_start), count(partition.log_end)];
  const isUnknown = start.isUnknown && end.isUnknown;
  sayFigure(cells.Log, isUnknown ? end : { text: `${start.text} – ${end.text}`, isUnknown });
  sayFigure(cells['High watermark'], count(partition.high_watermark));
  sayFigure(cells.Epoch, count(partition.leader_epoch));
  tellAge(cells.Confirmed, partition.lag_age_ms);
  const followers = partition.guest_broker_id === null ? [] : partition.followers;
  const led = partition.guest_broker_id === null ? '–' : `led by ${partition.guest_broker_id}`;
  keyed(cells.Followers, [{ text: led }, ...followers.map(follower)], (each) => each.text, (each) => {
    return { node: make('span', { class: 'follower', text: each.text }) };
  }, (cell, each) => {
    mark(cell.node, 'data-tone', each.tone ?? 'none');
    mark(cell.node, 'title', each.title ?? '');
  });
}

function follower({ broker_id: id, end, age_ms: age, in_sync: isInSync }) {
  const title = `fetched up to ${count(end).text}, ${span(age).text} ago`;
  return { text: isInSync ? `${id} in sync` : `${id} behind`, tone: isInSync ? 'good' : 'hold', title };
}
