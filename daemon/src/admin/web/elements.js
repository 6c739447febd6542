// Building and renewing parts of the page. Whatever comes from the daemon becomes text, never markup.
// Rows are renewed in place, so that focus, selection and scrolling survive each look.

/** A node: `text`, `class`, `on...` for listeners, everything else an attribute; `true` is one without a value. */
export function make(tag, facts = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === false || value === null) continue;
    if (name === 'text') node.textContent = value;
    else if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export const by = (id) => document.getElementById(id);

/** Sets a text where it is another one: a screen reader is told of changes only. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** A figure as `figures.js` tells it: unknown ones look it. */
export function sayFigure(node, figure) {
  say(node, figure.text);
  node.classList.toggle('unknown', figure.isUnknown);
}

const rows = new WeakMap();

/** Makes the children of `parent` those of `entries`: known ones are renewed, new ones begun, others removed. */
export function keyed(parent, entries, key, begin, renew) {
  const before = rows.get(parent) ?? new Map();
  const after = new Map();
  let place = null;
  for (const entry of entries) {
    const name = key(entry);
    const row = before.get(name) ?? begin(entry);
    before.delete(name);
    after.set(name, row);
    const next = place ? place.nextElementSibling : firstRow(parent);
    if (next !== row.node) parent.insertBefore(row.node, next);
    renew(row, entry);
    place = row.node;
  }
  for (const row of before.values()) row.node.remove();
  rows.set(parent, after);
}

/** Behind what was there from the beginning: the head of a table. */
function firstRow(parent) {
  let first = parent.firstElementChild;
  while (first && (first.tagName === 'CAPTION' || first.tagName === 'THEAD')) first = first.nextElementSibling;
  return first;
}

// Words of a state stand for themselves; the tone adds a shape and a colour.
const TONES = {
  ACTIVE: 'good', RUNNING: 'good', SYNCED: 'good',
  PAUSED: 'hold', LINK_PAUSED: 'hold', FROZEN: 'hold', STOPPED: 'info', NOT_CONFIGURED: 'info',
  NOT_WRITABLE: 'bad', NOT_READABLE: 'bad', TOO_LARGE: 'bad', AHEAD_AT_DESTINATION: 'hold', BACK_AT_SOURCE: 'hold',
  SOURCE_UNAVAILABLE: 'bad', UNAVAILABLE: 'bad', FAILED: 'bad', LINK_FAILED: 'bad', IN_ERROR: 'bad', FENCED: 'bad',
};

export function tone(state) {
  return TONES[state?.toUpperCase()] ?? 'info';
}

export function badge() {
  const shape = make('span', { class: 'mark', 'aria-hidden': 'true' });
  const word = make('span');
  return { node: make('span', { class: 'badge' }, shape, word), shape, word };
}

export function renewBadge(parts, state) {
  say(parts.word, state || 'unknown');
  mark(parts.shape, 'data-tone', tone(state));
  mark(parts.node, 'data-tone', tone(state));
}
