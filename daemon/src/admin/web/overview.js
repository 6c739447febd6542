// Everything that is not a mirror topic: the tiles, alarms, links with tasks and guest brokers, cores and memory.

import { badge, by, keyed, make, mark, renewBadge, say, sayFigure } from './elements.js';
import { bytes, count, moment, rate, share, span, tellAge } from './figures.js';
import { remember, renewSpark, spark } from './history.js';

/** One status for each link, whether the daemon has one of them or more. */
export function statusesOf(status) {
  return status.links?.length ? status.links : [status];
}

// What each tile shows: the large figure, the smaller ones beneath it, how old it is, and what its line follows.
const TILES = [
  {
    name: 'Lag', what: 'records behind', unit: 'records', write: count,
    large: ({ totals }) => totals.lag,
    small: ({ totals }) => [
      ['bytes', bytes(totals.lag_bytes, totals.lag_bytes_estimated)],
      ['to high watermark', count(totals.high_watermark_lag)],
    ],
    age: ({ totals }) => totals.lag_age_ms,
  },
  {
    name: 'Lag in time', what: 'age of the oldest undelivered record', unit: '', write: span,
    large: ({ totals }) => totals.lag_ms,
    exact: ({ totals }) => span(totals.lag_ms, totals.lag_ms_at_least),
    small: ({ totals }) => [
      ['at risk now', span(totals.rpo_ms)],
      ['worst of 1 h', span(totals.rpo_worst_hour_ms)],
      ['worst of 24 h', span(totals.rpo_worst_day_ms)],
    ],
    age: ({ totals }) => totals.lag_age_ms,
  },
  {
    name: 'Latency', what: 'median replication latency', unit: 'median', write: span,
    large: ({ totals }) => totals.replication_latency_p50_ms,
    small: ({ totals }) => [
      ['99 %', span(totals.replication_latency_p99_ms)],
      ['highest', span(totals.replication_latency_max_ms)],
    ],
    age: () => 0,
  },
  {
    name: 'From the source', what: 'bytes received in a second', unit: '', write: rate,
    large: ({ machine }) => machine.received,
    small: ({ machine }) => [['written', rate(machine.written)], ['to followers', rate(machine.served)]],
    age: () => 0,
  },
  {
    name: 'CPU', what: 'CPU of the whole process', unit: 'of one core', write: share,
    large: ({ machine }) => machine.cores,
    small: ({ machine }) => [['most memory', bytes(machine.peak)], ['buffers free', bytes(machine.free)]],
    age: () => 0,
  },
  {
    name: 'Mirror topics', what: 'mirror topics', unit: '', write: count,
    large: ({ totals }) => totals.mirror_topics,
    isFlat: true,
    small: ({ totals }) => [
      ['partitions', count(totals.partitions)],
      ['stopped', count(totals.failed_partitions)],
      ['hand-overs', count(totals.hand_overs)],
    ],
    age: ({ totals }) => totals.age_ms,
  },
];

export function renewTiles(status, machine) {
  const figures = { totals: status.totals, machine };
  keyed(by('tiles'), TILES, (tile) => tile.name, beginTile, (row, tile) => {
    const value = tile.large(figures);
    remember(`tile:${tile.name}`, value);
    sayFigure(row.large, tile.exact?.(figures) ?? tile.write(value));
    renewSpark(row.line, `tile:${tile.name}`, tile.what, tile.write);
    keyed(row.small, tile.small(figures), ([name]) => name, beginFact, renewFact);
    tellAge(row.age, tile.age(figures));
  });
}

function beginTile(tile) {
  const large = make('span', { class: 'large' });
  const line = spark();
  const small = make('dl');
  const age = make('span', { class: 'age' });
  const head = make('h3', { text: tile.name });
  const value = make('p', { class: 'value' }, large, make('span', { class: 'quiet', text: ` ${tile.unit}` }));
  return { node: make('article', { class: 'card tile' }, make('div', { class: 'title' }, head, age), value, ...(tile.isFlat ? [] : [line.node]), small), large, line, small, age };
}

function beginFact([name]) {
  const value = make('dd');
  return { node: make('div', {}, make('dt', { text: name }), value), value };
}

function renewFact(row, [, figure]) {
  sayFigure(row.value, figure);
}

export function renewAlarms(status) {
  const statuses = statusesOf(status);
  const alarms = statuses.flatMap(({ link_name, alarms: all }) => all.map((alarm) => ({ link_name, ...alarm })));
  by('alarms').hidden = alarms.length === 0;
  const name = ({ link_name, code, message }) => `${link_name} ${code} ${message}`;
  keyed(by('alarm-list'), alarms, name, (alarm) => {
    const since = make('span', { class: 'quiet' });
    const link = alarm.link_name ? `${alarm.link_name}: ` : '';
    const sentence = make('span', { text: `${link}${alarm.message} ` });
    const shape = make('span', { class: 'mark', 'data-tone': 'bad', 'aria-hidden': 'true' });
    return { node: make('li', {}, shape, make('code', { text: alarm.code }), sentence, since), since };
  }, (row, alarm) => say(row.since, `since ${moment(alarm.since_ms).text}`));
  return alarms.length;
}

export function renewLinks(status, links) {
  const statuses = new Map(statusesOf(status).map((each) => [each.link_name, each]));
  keyed(by('links'), links, (link) => link.link_name, beginLink, (row, link) => {
    renewBadge(row.state, link.link_state);
    say(row.why, link.link_error ?? '');
    const source = link.source_cluster_id ?? 'unknown';
    const destination = link.mode === 'store' ? 'a store here' : link.destination_cluster_id ?? 'unknown';
    say(row.way, `${source} → ${destination}`);
    keyed(row.facts, [
      ['lag', count(link.lag)],
      ['in time', span(link.lag_ms, link.lag_ms_at_least)],
      ['in bytes', bytes(link.lag_bytes, link.lag_bytes_estimated)],
      ['oldest open transaction', link.oldest_open_transaction_ms === 0 ? { text: 'none', isUnknown: false } : span(link.oldest_open_transaction_ms)],
    ], ([name]) => name, beginFact, renewFact);
    keyed(row.tasks, link.tasks, (task) => task.task_name, beginTask, renewTask);
    const mine = statuses.get(link.link_name);
    tellAge(row.age, link.lag_age_ms);
    renewEnds(row, mine);
  });
}

function beginLink(link) {
  const [state, why, way, age] = [badge(), make('p', { class: 'why' }), make('p', { class: 'way' }), make('span', { class: 'age' })];
  const [facts, tasks, ends] = [make('dl'), make('ul', { class: 'tasks', 'aria-label': `Tasks of ${link.link_name}` }), make('ul', { class: 'tasks', 'aria-label': `Clusters and guest brokers of ${link.link_name}` })];
  const head = make('div', { class: 'title' }, make('h3', { text: link.link_name }), state.node, make('span', { class: 'quiet', text: link.mode }), age);
  const node = make('article', { class: 'card' }, head, way, why, facts, make('h4', { text: 'Tasks' }), tasks, make('h4', { text: 'Peers' }), ends);
  return { node, state, why, way, facts, tasks, ends, age };
}

function beginTask(task) {
  const [state, told, age] = [badge(), make('span', { class: 'why' }), make('span', { class: 'age' })];
  return { node: make('li', {}, make('span', { class: 'name', text: task.task_name }), state.node, age, told), state, told, age };
}

function renewTask(row, task) {
  renewBadge(row.state, task.state);
  say(row.told, task.error ?? '');
  const isIdle = task.state === 'NOT_CONFIGURED';
  say(row.age, isIdle ? '' : task.last_success_ms ? `last success ${moment(task.last_success_ms).text}` : 'no success yet');
}

/** Whoever the link talks with: source, controllers, and guest brokers with what is left of their sessions. */
function renewEnds(row, status) {
  const ends = [];
  if (status) {
    const { source, controllers, guests } = status;
    ends.push({ name: `source, ${source.brokers} ${source.brokers === 1 ? 'broker' : 'brokers'}`, state: source.error ? 'IN_ERROR' : 'ACTIVE', why: source.error, age: source.age_ms });
    if (controllers) {
      ends.push({ name: `controller ${controllers.active_controller_id ?? 'unknown'}`, state: controllers.error ? 'IN_ERROR' : 'ACTIVE', why: controllers.error, age: controllers.age_ms });
    }
    for (const guest of guests) {
      const left = guest.heartbeat_slack_ms === null ? '' : `, ${span(guest.heartbeat_slack_ms).text} left of its session`;
      const led = `leads ${guest.led_partitions}${left}`;
      ends.push({ name: `guest ${guest.broker_id}`, state: guest.state, told: led, age: guest.age_ms });
    }
  }
  keyed(row.ends, ends, (end) => end.name, beginEnd, renewEnd);
}

function beginEnd(end) {
  const [state, told, why, age] = [badge(), make('span', { class: 'quiet' }), make('span', { class: 'why' }), make('span', { class: 'age' })];
  return { node: make('li', {}, make('span', { class: 'name', text: end.name }), state.node, told, age, why), state, told, why, age };
}

function renewEnd(row, end) {
  renewBadge(row.state, end.state);
  say(row.told, end.told ?? '');
  say(row.why, end.why ?? '');
  tellAge(row.age, end.age);
}

const SHARD_COLUMNS = [
  ['Received', (shard) => rate(shard.received)],
  ['Written', (shard) => rate(shard.written)],
  ['To followers', (shard) => rate(shard.served)],
  ['Buffers free', (shard) => bytes(shard.free)],
  ['Spool', (shard) => bytes(shard.spool)],
  ['Waits for memory', (shard) => count(shard.stalls)],
];

/** Each shard is a thread on a core of its own. */
export function renewCores(machine) {
  keyed(by('cores'), [machine], () => 'all', beginCores, (row) => {
    keyed(row.facts, [
      ['whole process', share(machine.cores)],
      ['most memory so far', bytes(machine.peak)],
    ], ([name]) => name, beginFact, renewFact);
    keyed(row.table, machine.shards, (shard) => shard.key, beginShard, (cells, shard) => {
      SHARD_COLUMNS.forEach(([, figure], index) => sayFigure(cells.cells[index], figure(shard)));
    });
    tellAge(row.age, 0);
  });
}

function beginCores() {
  const [facts, age] = [make('dl'), make('span', { class: 'age' })];
  const heads = SHARD_COLUMNS.map(([name]) => make('th', { role: 'columnheader', scope: 'col', class: 'figure', text: name }));
  const head = make('tr', { role: 'row' }, make('th', { role: 'columnheader', scope: 'col', text: 'Shard' }), ...heads);
  const table = make('tbody', { role: 'rowgroup' });
  const caption = make('caption', { class: 'hidden', text: 'Data shards, each on a core of its own' });
  const whole = make('table', { role: 'table', class: 'wide' }, caption, make('thead', { role: 'rowgroup' }, head), table);
  return { node: make('article', { class: 'card' }, make('div', { class: 'title' }, facts, age), whole), facts, table, age };
}

function beginShard(shard) {
  const cells = SHARD_COLUMNS.map(([name]) => make('td', { role: 'cell', class: 'figure', 'data-name': name }));
  const name = make('th', { role: 'rowheader', scope: 'row', text: `${shard.link} ${shard.shard}` });
  return { node: make('tr', { role: 'row' }, name, ...cells), cells };
}
