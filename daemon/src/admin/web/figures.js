// How figures are written. What is not known is written as unknown, never as 0.

const UNKNOWN = { text: 'unknown', isUnknown: true };
const COUNT = new Intl.NumberFormat('en-US');
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const known = (text) => ({ text, isUnknown: false });
const isUnknown = (value) => value === null || value === undefined || Number.isNaN(value);

export function count(value) {
  return isUnknown(value) ? UNKNOWN : known(COUNT.format(value));
}

/** Milliseconds as people say them. */
export function span(ms, isAtLeast = false) {
  if (isUnknown(ms)) return UNKNOWN;
  return known(`${isAtLeast ? '≥ ' : ''}${spanText(ms)}`);
}

function spanText(ms) {
  if (ms < 0) return `-${spanText(-ms)}`;
  if (ms < SECOND) return `${Math.round(ms)} ms`;
  if (ms < 10 * SECOND) return `${(ms / SECOND).toFixed(1)} s`;
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ${Math.floor((ms % MINUTE) / SECOND)} s`;
  if (ms < DAY) return `${Math.floor(ms / HOUR)} h ${Math.floor((ms % HOUR) / MINUTE)} min`;
  return `${Math.floor(ms / DAY)} d ${Math.floor((ms % DAY) / HOUR)} h`;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytes(value, isEstimated = false) {
  if (isUnknown(value)) return UNKNOWN;
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || rest >= 100 ? 0 : 1;
  // Of nothing there is nothing to estimate.
  return known(`${isEstimated && value > 0 ? '≈ ' : ''}${rest.toFixed(digits)} ${UNITS[unit]}`);
}

export function rate(bytesPerSecond) {
  const figure = bytes(bytesPerSecond);
  return figure.isUnknown ? figure : known(`${figure.text}/s`);
}

/** Of one core, in percent. */
export function share(cores) {
  return isUnknown(cores) ? UNKNOWN : known(`${(100 * cores).toFixed(cores < 0.1 ? 1 : 0)} %`);
}

/** A moment of the daemon's clock. */
export function moment(sinceEpochMs) {
  if (isUnknown(sinceEpochMs) || sinceEpochMs <= 0) return UNKNOWN;
  const then = new Date(sinceEpochMs);
  const isToday = then.toDateString() === new Date().toDateString();
  const time = then.toLocaleTimeString('en-GB');
  return known(isToday ? time : `${then.toISOString().slice(0, 10)} ${time}`);
}

/** From then on an age stands out. */
const LATE_MS = 10 * SECOND;

const aged = new Map();

/** Writes how old a figure is, and goes on doing so. `ageMs` is what the daemon said at this moment. */
export function tellAge(node, ageMs) {
  if (isUnknown(ageMs)) {
    aged.delete(node);
    node.textContent = 'unknown';
  } else {
    aged.set(node, performance.now() - ageMs);
    write(node);
  }
  node.classList.toggle('unknown', isUnknown(ageMs));
}

function write(node) {
  const age = performance.now() - aged.get(node);
  const text = ageText(age);
  if (node.textContent !== text) node.textContent = text;
  node.classList.toggle('late', age > LATE_MS);
}

/** In whole seconds: an age that flickers is read by nobody. */
export function ageText(ms) {
  return ms < SECOND ? '< 1 s ago' : `${spanText(ms < 10 * SECOND ? SECOND * Math.floor(ms / SECOND) : ms).replace('.0', '')} ago`;
}

/** Once a second. */
export function growOlder() {
  for (const node of aged.keys()) {
    if (node.isConnected) write(node);
    else aged.delete(node);
  }
}
