// Consumer groups of one link: how their copies stand, and the few that somebody should look at. The list is asked for
// while it is open, and never whole: there may be ten thousand.

import { get, Refusal } from './api.js';
import { badge, by, keyed, make, mark, renewBadge, say, sayFigure } from './elements.js';
import { count, span } from './figures.js';
import { statusesOf } from './overview.js';

/** Groups of one look. */
const ROWS_MAX = 50;
/** Kafka REST's status of what is not the case just now. */
const CONFLICT = 409;

let again = () => {};
const isOpen = () => by('groups-fold').getAttribute('aria-expanded') === 'true';

/** `look` is called when something else is to be asked for. */
export function beginGroups(look) {
  again = look;
  by('groups-fold').addEventListener('click', () => {
    mark(by('groups-fold'), 'aria-expanded', String(!isOpen()));
    draw(null);
    again();
  });
  by('group-filter').addEventListener('change', () => again());
  by('group-link').addEventListener('change', () => again());
}

/** What is to be shown; null while nobody looks. */
export async function askGroups() {
  const link = by('group-link').value;
  if (!isOpen() || link === '') return null;
  const words = escaped(by('group-filter').value.trim());
  const path = `/kafka/v3/clusters/-/links/${link}/groups?limit=${ROWS_MAX}${words === '' ? '' : `&contains=${words}`}`;
  try {
    return (await get(path)).data;
  } catch (error) {
    // Not copied, or not yet: the facts above say so.
    if (error instanceof Refusal && error.status === CONFLICT) return [];
    throw error;
  }
}

/** As the daemon reads it: whatever is no letter, digit, dot, line or underline has an escape. */
function escaped(name) {
  return encodeURIComponent(name).replace(/[!'()*~]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
}

export function renewGroups(status, groups) {
  const links = statusesOf(status).filter((each) => each.offset_sync?.enabled);
  by('groups').hidden = links.length === 0;
  keyed(by('group-link'), links, (each) => each.link_name, (each) => ({
    node: make('option', { value: each.link_name, text: each.link_name }),
  }), () => {});
  const chosen = links.find((each) => each.link_name === by('group-link').value) ?? links[0];
  if (!chosen) return;
  const sync = chosen.offset_sync;
  say(by('groups-count'), `${count(sync.groups).text}${sync.skipped > 0 ? `, ${count(sync.skipped).text} left out` : ''}`);
  const facts = [
    ['oldest copy', sync.offset_staleness_ms === null ? { text: 'none yet', isUnknown: true } : span(sync.offset_staleness_ms)],
    ['positions', count(sync.positions)],
    ['wait for data', count(sync.held_back)],
    ['last round', span(sync.last_round_ms)],
    ['rounds that overran', count(sync.overruns)],
    ...Object.entries(sync.states).map(([state, groups]) => [state, count(groups)]),
  ];
  keyed(by('group-facts'), facts, ([name]) => name, ([name]) => {
    const value = make('dd');
    return { node: make('div', {}, make('dt', { text: name }), value), value };
  }, (row, [, figure]) => sayFigure(row.value, figure));
  if (groups !== null) draw(groups);
}

/** Null: they are asked for. */
function draw(groups) {
  by('group-table').hidden = !isOpen() || !groups?.length;
  by('no-groups').hidden = !isOpen() || groups?.length !== 0;
  by('group-tools').hidden = !isOpen();
  keyed(by('group-rows'), groups ?? [], (group) => group.group_id, beginGroup, renewGroup);
}

function beginGroup(group) {
  const state = badge();
  const cells = ['Age of the copy', 'Positions', 'Wait for data', 'Not mirrored'].map((name) => make('td', { role: 'cell', class: 'figure', 'data-name': name }));
  const why = make('span', { class: 'under' });
  const node = make('tr', { role: 'row', 'data-group': group.group_id },
    make('th', { role: 'rowheader', scope: 'row', text: group.group_id }),
    make('td', { role: 'cell', 'data-name': 'State' }, state.node, why),
    ...cells);
  return { node, state, why, cells };
}

// Why a group is left out, or is not as the source has it.
const REASONS = {
  NOT_WRITABLE: 'the destination refuses it',
  NOT_READABLE: 'the source refuses it',
  TOO_LARGE: 'more positions than fit into memory',
  BACK_AT_SOURCE: 'the source went back; followed once nobody is in the group',
  AHEAD_AT_DESTINATION: 'somebody else wrote it at the destination',
  DELETED_AT_DESTINATION: 'deleted there; comes back when it changes at the source',
  ACTIVE_AT_DESTINATION: 'has members at the destination',
  HELD_BACK: 'waits for data',
  NOT_SUPPORTED: 'a kind of group whose state is no positions',
  NOT_MIRRORED: 'none of its topics is mirrored',
  GONE_AT_SOURCE: 'deleted at the source',
};

function renewGroup(row, group) {
  renewBadge(row.state, group.state);
  const code = group.error_code === null ? '' : ` (error code ${group.error_code})`;
  say(row.why, `${REASONS[group.state] ?? ''}${code}`);
  const figures = [span(group.offset_staleness_ms), count(group.positions), count(group.held_back), count(group.not_mirrored)];
  figures.forEach((figure, index) => sayFigure(row.cells[index], figure));
}
