// The page's one loop: ask, show, wait. A look that fails leaves what was shown, with its age going on.

import { forgetToken, get, hasToken, keepToken, list, Refusal, text, whyNot } from './api.js';
import { by, mark, say, tone } from './elements.js';
import { ageText, growOlder, span } from './figures.js';
import { askGroups, beginGroups, renewGroups } from './groups.js';
import { forgetOld } from './history.js';
import { figures, read } from './metrics.js';
import { beginOrders, give } from './orders.js';
import { renewAlarms, renewCores, renewLinks, renewTiles } from './overview.js';
import { beginTopics, nameOf, renewTopics } from './topics.js';

const PAUSE_MS = 2000;
/** Of ten thousand partitions a look is megabytes: the daemon's control core spends a twentieth on it at most. */
const PAUSE_PER_LOOK = 19;
/** Beyond it what is shown is called old. */
const OLD_MS = 10_000;

let timer = null;
let isLooking = false;
/** Counts logins and their ends: an answer that was asked for before one is not shown after it. */
let login = 0;
let lookedAt = null;
let machine = null;
let states = new Map();

async function look() {
  clearTimeout(timer);
  if (isLooking) return;
  isLooking = true;
  const began = performance.now();
  const mine = login;
  let goesOn = true;
  try {
    const [status, links, topics, metrics, groups] = await Promise.all([
      get('/twinlog/v1/status'),
      list('/kafka/v3/clusters/-/links'),
      list('/kafka/v3/clusters/-/links/-/mirrors'),
      text('/metrics'),
      askGroups(),
    ]);
    if (mine === login) show(status, links, topics, read(metrics, performance.now()), groups);
  } catch (error) {
    if (mine === login) goesOn = failed(error);
  }
  isLooking = false;
  if (mine !== login) {
    if (hasToken()) look();
    return;
  }
  growOlder();
  sayFresh();
  if (goesOn) timer = setTimeout(look, Math.max(PAUSE_MS, PAUSE_PER_LOOK * (performance.now() - began)));
}

function show(status, links, topics, metrics, groups) {
  lookedAt = performance.now();
  by('login').hidden = true;
  by('trouble').hidden = true;
  by('page').hidden = false;
  by('leave').hidden = !hasToken();
  const now = figures(machine, metrics);
  machine = metrics;
  say(by('daemon'), `${status.version}, up ${span(status.uptime_ms).text}`);
  renewTiles(status, now);
  const alarms = renewAlarms(status);
  renewLinks(status, links);
  renewTopics(topics);
  renewGroups(status, groups);
  renewCores(now);
  forgetOld();
  tellChanges(topics);
  const troubled = topics.filter((topic) => tone(topic.state) === 'bad').length;
  const badly = alarms + troubled;
  document.title = badly > 0 ? `(${badly}) Twinlog` : 'Twinlog';
}

/** Changes of state are said aloud, once. */
function tellChanges(topics) {
  const now = new Map(topics.map((topic) => [nameOf(topic), topic.state]));
  const changed = [...now].filter(([name, state]) => states.has(name) && states.get(name) !== state);
  if (changed.length > 0) {
    say(by('heard'), changed.map(([name, state]) => `${name} is ${state}`).join(', '));
  }
  states = now;
}

/** False: somebody has to log in first. */
function failed(error) {
  if (error instanceof Refusal && error.status === 401) {
    const why = hasToken() ? whyNot(error) : '';
    forgetToken();
    askForToken(why);
    return false;
  }
  by('trouble').hidden = false;
  const since = lookedAt === null ? '' : ' What is shown below is from the last answer.';
  say(by('trouble'), `No answer: ${whyNot(error)}.${since} It is tried again.`);
  return true;
}

function askForToken(why) {
  by('page').hidden = true;
  by('leave').hidden = true;
  by('trouble').hidden = true;
  by('login').hidden = false;
  lookedAt = null;
  say(by('daemon'), '');
  sayFresh();
  say(by('login-why'), why);
  by('token').focus();
}

function sayFresh() {
  const age = lookedAt === null ? null : performance.now() - lookedAt;
  const isOld = age === null || age > OLD_MS;
  const isGood = !isOld && by('trouble').hidden;
  document.body.classList.toggle('old', isOld && lookedAt !== null);
  mark(by('fresh-mark'), 'data-tone', lookedAt === null ? 'info' : isGood ? 'good' : 'bad');
  say(by('fresh'), age === null ? 'No answer yet' : `Last answer ${ageText(age)}`);
}

by('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const token = by('token').value.trim();
  if (token === '') return;
  by('token').value = '';
  keepToken(token);
  login += 1;
  look();
});
by('leave').addEventListener('click', () => {
  forgetToken();
  login += 1;
  clearTimeout(timer);
  askForToken('');
});
document.addEventListener('visibilitychange', () => {
  // Nobody looks: nothing is asked.
  if (document.hidden) clearTimeout(timer);
  else if (by('login').hidden) look();
});
beginTopics(give);
beginGroups(look);
beginOrders((sentence) => {
  say(by('heard'), sentence);
  look();
});
setInterval(() => {
  growOlder();
  sayFresh();
}, 1000);
look();
