// The order of a project's jobs, and workflows as if they were jobs.

import { isOver, rankOf } from "./celery-realtime-row.js";

const byPlace = (one, other) => one.rank - other.rank || one.at - other.at;

export function countsOf(records) {
  const counts = { running: 0, queued: 0, success: 0, error: 0 };
  for (const { job } of records) counts[job.status] += 1;
  return counts;
}

// Where a job stands among those of its rank: what began first, and what ended last.
export function timeOf(job) {
  const { status, timestamp, started_at, queued_at, ended_at } = job;
  return isOver(job) ? -Date.parse(ended_at ?? timestamp) : Date.parse((status === "running" ? started_at : queued_at) ?? timestamp);
}

// The first of records, in the order of a list, and those of which more is shown.
export function firstOf(records, most, opened) {
  if (records.length <= most) return records;
  return [...records].sort(byPlace).filter(({ key }, place) => place < most || opened.has(key));
}

// Put records, { key, job, rank, at }, that have one root together: root id -> { key, root, part, members }. Those that were there
// `before` stay the same objects, so that a list knows them.
export function fold(records, before) {
  const flows = new Map();
  for (const record of records) {
    const root = record.job.root_id ?? record.key, known = flows.get(root);
    if (known) known.members.push(record);
    else flows.set(root, Object.assign(before.get(root) ?? { key: `workflow ${root}`, root, part: "workflow" }, { members: [record] }));
  }
  return flows;
}

// The ids of its members, if none of them goes on.
export const endedOf = ({ members }) => (members.every(({ job }) => isOver(job)) ? members.map(({ key }) => key) : []);

// The rows of a list: what runs first, then what waits, then what ended last. A workflow is there if one of its members is to be
// `shown`, and these stand behind it where it was `opened`.
export function arranged(flows, shown, opened, workflows) {
  const rows = [];
  for (const flow of flows.values()) {
    const members = flow.members.filter((record) => shown.has(record)), isAlone = flow.members.length < 2 && !(workflows?.get(flow.root)?.total > 1);
    for (const record of members) record.part = isAlone ? "" : "member";
    if (isAlone) rows.push(...members);
    else if (members.length) rows.push(Object.assign(flow, { shown: members.sort(byPlace), rank: rankOf(sumOf(flow, workflows)), at: flow.members.sort(byPlace)[0].at }));
  }
  return rows.sort(byPlace).flatMap((row) => (row.shown && opened.has(row.key) ? [row, ...row.shown] : row));
}

// Of its members or, where not all of them are here, as the server counts them.
function sumOf({ root, members }, workflows) {
  const known = workflows?.get(root), isWhole = !(known?.total > members.length), counts = countsOf(members), total = isWhole ? members.length : known.total;
  const { queued, running, success: done, error: failed } = isWhole ? counts : { ...known, success: known.done, error: known.failed };
  const rest = queued + running, status = queued === total ? "queued" : rest ? "running" : failed ? "error" : "success";
  const progress = isWhole ? members.reduce((sum, { job }) => sum + (isOver(job) ? 100 : job.progress ?? 0), 0) / total : known.progress;
  return { total, done, failed, status, progress };
}

// A workflow as if it was a job, with its `members`.
export function workflowOf(flow, words, records, workflows) {
  const { root, members } = flow, { total, done, failed, status, progress } = sumOf(flow, workflows);
  const name = words.name(records.get(root)?.job ?? { task: members[0].job.task });
  const sum = words.say("sum", { done, total }) + (failed ? `, ${words.say("failedToo", { n: failed })}` : "");
  const times = (key) => members.map(({ job }) => job[key]).filter(Boolean).sort();
  const [started_at] = times("started_at"), [queued_at] = times("queued_at"), ended_at = isOver({ status }) ? times("ended_at").pop() : null;
  const runtime = started_at && ended_at ? (Date.parse(ended_at) - Date.parse(started_at)) / 1000 : null;
  return { job_id: root, members, label: words.say("flow", { name, n: total }), status, message: sum, error: sum, progress, queued_at, started_at, ended_at, runtime };
}
