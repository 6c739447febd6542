// What of /metrics the page shows: the process, and each shard. Counters become rates between two looks.

const LINE = /^(\w+)\{([^}]*)\} (\S+)$/;
const LABEL = /(\w+)="([^"]*)"/g;
const WANTED = ['twinlog_shard_', 'twinlog_cpu_', 'twinlog_peak_'];

/** Samples of one look: `process` by name, `shards` by link and shard. */
export function read(text, at) {
  const look = { at, process: {}, shards: new Map() };
  for (const line of text.split('\n')) {
    if (!WANTED.some((start) => line.startsWith(start))) continue;
    const found = LINE.exec(line);
    if (found === null) continue;
    const [, name, labels, value] = found;
    const { link, shard } = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, word]) => [key, word]));
    if (shard === undefined) {
      look.process[name] = Number(value);
      continue;
    }
    const key = `${link}:${shard}`;
    const samples = look.shards.get(key) ?? { link, shard };
    samples[name] = Number(value);
    look.shards.set(key, samples);
  }
  return look;
}

/** How much a counter grew in a second; unknown before the second look, and after a restart of what counts. */
function growth(before, now, name, seconds) {
  const grown = (now?.[name] ?? NaN) - (before?.[name] ?? NaN);
  return seconds > 0 && grown >= 0 ? grown / seconds : null;
}

/** The figures that are shown, from two looks; `before` may be missing. */
export function figures(before, now) {
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  const shards = [...now.shards].map(([key, samples]) => {
    const of = (name) => growth(before?.shards.get(key), samples, name, seconds);
    return {
      key,
      link: samples.link,
      shard: samples.shard,
      received: of('twinlog_shard_received_bytes_total'),
      written: of('twinlog_shard_written_bytes_total'),
      served: of('twinlog_shard_served_bytes_total'),
      free: samples.twinlog_shard_pool_free_bytes ?? null,
      spool: samples.twinlog_shard_spool_bytes ?? null,
      stalls: samples.twinlog_shard_memory_stalls_total ?? null,
    };
  });
  const sum = (name) => shards.reduce((all, shard) => (all === null || shard[name] === null ? null : all + shard[name]), 0);
  return {
    shards: shards.sort((one, other) => (one.key < other.key ? -1 : 1)),
    cores: growth(before?.process, now.process, 'twinlog_cpu_seconds_total', seconds),
    peak: now.process.twinlog_peak_resident_bytes ?? null,
    received: sum('received'),
    written: sum('written'),
    served: sum('served'),
    free: sum('free'),
  };
}
