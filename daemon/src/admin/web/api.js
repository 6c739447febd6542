// The only part that asks the daemon. The token stands in a header and in this tab's session storage, never in a
// path, a cookie or a log.

const TOKEN = 'twinlog.token';
/** The daemon answers within a minute, or says that it does not. */
const ANSWER_LIMIT_MS = 65_000;
/** A list without an end would be asked for without one. */
const PAGES_MAX = 200;

/** What the daemon refuses, with its status, code and sentence. */
export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);

async function send(path, method, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-store',
    // A certificate of the browser's, where it has one.
    credentials: 'same-origin',
    redirect: 'error',
    signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refusal(answer.status, told?.error_code ?? null, told?.message ?? `the daemon answered ${answer.status}`);
}

export async function get(path) {
  return (await send(path, 'GET')).json();
}

export async function text(path) {
  return (await send(path, 'GET')).text();
}

export async function post(path, body) {
  return (await send(path, 'POST', body)).json();
}

/** A whole list, page by page. */
export async function list(path) {
  const data = [];
  let next = path;
  for (let page = 0; next && page < PAGES_MAX; page += 1) {
    const piece = await get(next);
    data.push(...piece.data);
    next = piece.metadata.next;
  }
  return data;
}

/** Why there is no answer, in words. */
export function whyNot(error) {
  if (error instanceof Refusal) return error.code === null ? error.message : `${error.message} (code ${error.code})`;
  if (error.name === 'TimeoutError') return 'the daemon does not answer';
  if (error instanceof TypeError) return 'the daemon cannot be reached';
  return String(error.message ?? error);
}
