// Compiled, never run: what a page in TypeScript may write, and what it may not.
import { io, type Socket } from "socket.io-client";

import { subscribeProject } from "../../celery_realtime/static/celery-realtime.js";
import { matches, subscribeProject as follow, type Filter } from "../../celery_realtime/static/celery-realtime-filter.js";
import { texts, type CeleryTags } from "../../celery_realtime/static/celery-realtime-element.js";
import { rerunJob, subscribeJob, type JobSnapshot, type LogLine, type Stream } from "../../celery_realtime/static/celery-realtime-streams.js";
import {
  projectStore, selected, streamStore, type ProjectSnapshot,
} from "../../celery_realtime/static/celery-realtime-store.js";
import { watchConnection } from "../../celery_realtime/static/celery-realtime-connection.js";
import { shareSocket } from "../../celery_realtime/static/celery-realtime-shared.js";
import type { Job, ProjectSubscription, Snapshot } from "../../celery_realtime/static/celery-realtime.js";
import type { BatchItem, ClientToServerEvents, ServerToClientEvents } from "../../celery_realtime/static/celery-realtime-wire.js";

const socket = io({ autoConnect: false });

const project: ProjectSubscription = subscribeProject(socket, "apollo", {
  since: { epoch: "k3f9", offset: 41 },
  batch: true,
  gapTimeout: 250,
  onStatus: ({ job_id, status, error }, { jobs }) => [jobs.get(job_id)?.progress?.toFixed(), status === "error" && error],
  onProgress: ({ progress, current }) => [progress.toFixed(), current?.toFixed()],
  onWorkflow: ({ done, total }) => done / total,
  onEvent: (name, data) => [name.length, data.text],
  onChange: (one, change) => (change.reason === "jobs" ? one.jobs.get(change.key) : one.error?.code === "unauthorized"),
});
subscribeProject(socket, 456).close();
subscribeProject(socket, 456, { enabled: false, pauseOnHidden: true, closeOnEnd: true }).update({ enabled: true });
subscribeJob(socket, "j", { enabled: false, pauseOnHidden: true, closeOnEnd: true }).update({ closeOnEnd: false });

// As React declares it.
declare function useSyncExternalStore<T>(subscribe: (changed: () => void) => () => void, getSnapshot: () => T): T;
const snapshot: Snapshot = useSyncExternalStore(project.subscribe, project.getSnapshot);
const running: Job[] = [...snapshot.jobs.values()].filter((job) => job.status === "running");

switch (project.state) {
  case "subscribing":
  case "subscribed":
  case "stale":
  case "refused":
  case "idle":
  case "paused":
  case "closed":
    break;
  default:
    project.state satisfies never;
}

// @ts-expect-error: there is no such status
running[0]!.status === "done";
// @ts-expect-error: nobody but the client changes a job
running[0]!.progress = 100;
// @ts-expect-error: nor its map
project.jobs.set("a", running[0]!);
// @ts-expect-error: there is no such option
subscribeProject(socket, "apollo", { onJob: () => {} });
// @ts-expect-error: that cannot be changed later
project.update({ since: null });
// @ts-expect-error: a project has a name
subscribeProject(socket);

const filter: Filter = { status: "running", task: ["reports.*"], label: null };
const some = follow(socket, "apollo", { filter, limit: 300, onChange: (_, change) => change.reason === "jobs" && change.left?.status });
some.loadMore?.(100);
const fits: boolean = matches(filter, running[0]!) && !some.hasMore;
projectStore(socket, "apollo", { filter: { status: ["error"] } }).getSnapshot().loadMore();
// @ts-expect-error: there is no such status
follow(socket, "apollo", { filter: { status: ["done"] } });
// @ts-expect-error: nor such a member
follow(socket, "apollo", { filter: { state: ["STARTED"] } });

const job = subscribeJob(socket, "j", {
  projectId: 5,
  tail: 100,
  onChunk: (stream, chunk) => [stream.name.length, chunk.length],
  onChange: (one) => one.streams.get("answer")?.value.length,
});
const spoken: JobSnapshot = useSyncExternalStore(job.subscribe, job.getSnapshot);
const stream: Stream | undefined = spoken.streams.get("answer");
const lines = (spoken.streams.get("log")?.value ?? []) as readonly LogLine[];
const missing: number = lines.reduce((sum, { dropped = 0, message }) => sum + dropped + message.length, 0);
const text: string = typeof stream?.value === "string" ? stream.value : "";
const state = stream?.state;
switch (state) {
  case undefined:
  case "open":
  case "closed":
  case "failed":
  case "cancelled":
    break;
  default:
    state satisfies never;
}
job.cancel().then((answer) => answer.cancel === "requested" && text);
rerunJob(socket, "j", { projectId: 5 }).then((answer) => (answer.ok ? answer.job_id?.length : answer.error?.code));
job.close();
// @ts-expect-error: a job has an id
subscribeJob(socket);
// @ts-expect-error: nobody but the client changes a stream
stream!.value = "x";

const view = projectStore(socket, "apollo", { closeOnEnd: true, maxJobs: 10, onEvent: (name, data) => [name, data] });
const shown: ProjectSnapshot = useSyncExternalStore(view.subscribe, view.getSnapshot);
const labels: string[] = selected(view, ({ jobs }) => [...jobs.keys()]).getSnapshot();
streamStore(null, null, "answer").getSnapshot().text satisfies string;
// @ts-expect-error: nobody but the store changes it
shown.jobs.set("a", labels);
// @ts-expect-error: a store has subscribe()
projectStore(socket, "apollo", { onChange: () => {} });
// A plain page, without our modules.
const plain: Socket<ServerToClientEvents, ClientToServerEvents> = io({ autoConnect: false });
const textOf = (item: BatchItem) => (item.event === "agent_status" ? (item as { data: { state: string } }).data.state : "");
plain.on("agent_status", (status) => [status.status === "running", status.runtime?.toFixed(), status.epoch?.length]);
plain.on("agent_batch", (items) => items.map(textOf));
plain.on("transcript_line", (data) => data.text);
plain.emit("subscribe_project", { project_id: 456, since: { epoch: "k3f9", offset: 41 }, batch: true }, (answer) =>
  answer.ok ? [answer.jobs[0]?.label?.length, answer.next?.length] : answer.error.code === "forbidden",
);
plain.emit("read_stream", { job_id: "j", stream: "answer", from: 5 }, (answer) => answer.ok && answer.value.length);
plain.emit("unsubscribe_project", { project_id: "apollo" });
subscribeProject(plain, "apollo").close();
// @ts-expect-error: a subscription is to a project
plain.emit("subscribe_project", { project: "apollo" });
// @ts-expect-error: there is no such status
plain.on("agent_status", (status) => status.status === "done");
// @ts-expect-error: what is refused has no jobs
plain.emit("subscribe_project", { project_id: "apollo" }, (answer) => answer.jobs);
// One that is watched, and one for all tabs.
watchConnection(socket, { restAfter: 30000, probeTimeout: 1000, hiddenFor: 0 })();
const shared = shareSocket(() => io(), { name: "studio" });
subscribeProject(shared, "apollo").close();
shared.emit("cancel_job", { job_id: "j" }, (answer: unknown) => answer);
shared.disconnect();
// @ts-expect-error: it makes the socket itself
shareSocket(io());

const element = document.createElement("celery-project");
Object.assign(element, { socket, project: "apollo", cancellable: true, maxJobs: 100 });
element.texts = { stop: "Halt", done: { one: "{n} job", other: "{n} jobs" } };
element.token = async () => "a token";
element.addEventListener("celery-job-end", ({ detail }) => detail.job.result);
document.querySelector("celery-job")!.jobId = "j";
texts.fr = { stop: "Arrêter" };
const tag: CeleryTags["celery-job"] = { "job-id": "j", project: "apollo", socket, cancellable: true };
// @ts-expect-error: there is no such theme
element.theme = "pink";
// @ts-expect-error: nor such an attribute
const wrong: CeleryTags["celery-job"] = { ...tag, jobid: "j" };
