// What figures were in the last minutes, from this page's own looks, and the line that shows it.
// A figure that was not known leaves a gap: a line across it would be invented.

import { by, mark } from './elements.js';
import { span } from './figures.js';

export const WINDOW_MS = 5 * 60 * 1000;
/** What a line shows at least: the first minute is not drawn into a corner. */
const WINDOW_MIN_MS = 60 * 1000;
const WIDTH = 100;
const HEIGHT = 24;
/** Room for the stroke. */
const MARGIN = 1.5;
/** Pixels that two points share are not drawn twice. */
const POINTS_MAX = 400;

const kept = new Map();

/** Adds what a figure is now; `value` may be unknown. */
export function remember(name, value, now = performance.now()) {
  const points = kept.get(name) ?? [];
  points.push([now, value ?? null]);
  while (points.length > POINTS_MAX || points[0][0] < now - WINDOW_MS) points.shift();
  kept.set(name, points);
}

/** Forgets what nobody remembers any more: topics that are gone. */
export function forgetOld(now = performance.now()) {
  for (const [name, points] of kept) {
    if (points.at(-1)[0] < now - WINDOW_MS) kept.delete(name);
  }
}

export function spark() {
  const node = by('spark').content.firstElementChild.cloneNode(true);
  return { node, line: node.querySelector('.line'), area: node.querySelector('.area') };
}

/** Draws. `figure` writes a value in words, for those who hear the page. */
export function renewSpark(parts, name, what, figure) {
  const points = kept.get(name) ?? [];
  const values = points.map(([, value]) => value).filter((value) => value !== null);
  const end = points.at(-1)?.[0] ?? 0;
  const highest = Math.max(...values, 0);
  const whole = Math.max(WINDOW_MIN_MS, end - (points[0]?.[0] ?? end));
  const x = (at) => (WIDTH * (1 - (end - at) / whole)).toFixed(2);
  const y = (value) => (HEIGHT - MARGIN - (highest > 0 ? value / highest : 0) * (HEIGHT - 2 * MARGIN)).toFixed(2);
  let line = '';
  let area = '';
  for (const run of runs(points)) {
    const path = run.map(([at, value]) => `${x(at)} ${y(value)}`).join('L');
    // One point alone has no length: a short stroke shows it.
    line += `M${path}${run.length === 1 ? 'h0.5' : ''}`;
    area += `M${x(run[0][0])} ${HEIGHT}L${path}L${x(run.at(-1)[0])} ${HEIGHT}Z`;
  }
  mark(parts.line, 'd', line);
  mark(parts.area, 'd', area);
  const told = values.length === 0
    ? `${what}: not known yet`
    : `${what} over the last ${span(whole).text}: highest ${figure(highest).text}, now ${figure(points.at(-1)[1]).text}`;
  mark(parts.node, 'aria-label', told);
}

function runs(points) {
  const all = [];
  let run = [];
  for (const point of points) {
    if (point[1] !== null) {
      run.push(point);
    } else if (run.length > 0) {
      all.push(run);
      run = [];
    }
  }
  if (run.length > 0) all.push(run);
  return all;
}
