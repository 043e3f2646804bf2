// Compiled, never run: what a project in TypeScript may write, and what it may not.
import { useQuery } from "@tanstack/react-query";
import { createSocket, subscribeJob, subscribeProject, type Job } from "celery-realtime";
import { projectQuery, jobQuery } from "celery-realtime/query";
import { RealtimeProvider, useCancel, useJob, useProject, useStream } from "celery-realtime/react";
import { createProject, createStream } from "celery-realtime/solid";
import { projectStore, selected, type ProjectSnapshot } from "celery-realtime/store";
import { job, project } from "celery-realtime/svelte";
import { realtime, useProject as useVueProject } from "celery-realtime/vue";
import { io } from "socket.io-client";
import { createApp, ref } from "vue";

const socket = createSocket("https://example.org", { token: async () => "ada:...", transports: ["websocket"] });
createSocket({ token: () => fetch("/token").then((answer) => answer.json()), io });
createSocket(new URL("https://example.org"), { token: "ada:..." }).io.on("reconnect", () => {});
// @ts-expect-error: a token is a string
createSocket("https://example.org", { token: 5 });
subscribeProject(socket, "apollo").close();
subscribeJob(socket, "j").cancel();

const store = projectStore(socket, "apollo", { maxJobs: 100, closeOnEnd: true });
const snapshot: ProjectSnapshot = store.getSnapshot();
const running: Job[] = selected(store, ({ jobs }) => [...jobs.values()].filter((one) => one.status === "running")).getSnapshot();
projectStore(null, undefined);
// @ts-expect-error: there is no such option
projectStore(socket, "apollo", { onJob: () => {} });
// @ts-expect-error: nobody but the store changes it
snapshot.jobs.set("j", running[0]!);
// @ts-expect-error: onChange is for subscribeProject(): a store has subscribe()
projectStore(socket, "apollo", { onChange: () => {} });

export function Page({ id }: { id: string | null }) {
  const { jobs, status, error } = useProject(id, { enabled: true, pauseOnHidden: true, onEvent: (name, data) => [name, data] });
  const count: number = useProject("apollo", { select: ({ jobs }) => jobs.size });
  const { job, streams } = useJob(id, { projectId: "apollo", closeOnEnd: true });
  const { text, items } = useStream<{ n: number }>(id, "answer");
  const cancel = useCancel();
  const query = useQuery(projectQuery(socket, id));
  const { data } = useQuery(jobQuery(socket, "j"));
  // @ts-expect-error: a snapshot has no size
  useProject("apollo", { select: (one) => one.size });
  return (
    <RealtimeProvider url="/" token={() => "ada:..."}>
      {error?.code} {status === "paused"} {jobs.size + count} {job?.progress} {streams.size} {text} {items[0]?.n.toFixed()}
      {query.data?.jobs.get("j")?.label} {data?.job?.label}
      <button onClick={() => cancel("j").then((answer) => answer.cancel === "requested")} />
    </RealtimeProvider>
  );
}

createApp({}).use(realtime, { socket });
const chosen = ref<string | null>(null);
const { jobs, status } = useVueProject(chosen, () => ({ enabled: chosen.value !== null }));
jobs.value.get("j")?.progress?.toFixed();
// @ts-expect-error: a ref has its value in value
jobs.size;
status.value satisfies string;

const view = project(socket, "apollo");
view.subscribe(({ jobs }) => jobs.size)();
view.jobs.get("j")?.label;
job(socket, "j").current.job?.label;

const shown = createProject(socket, () => "apollo", { batch: false });
shown.jobs.size satisfies number;
createStream(socket, () => null, "answer").text satisfies string;
