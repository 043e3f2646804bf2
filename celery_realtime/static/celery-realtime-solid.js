// Projects, jobs and streams for Solid (1.8 and later): objects to be read as props are.

import { createEffect, createMemo, createSignal, onCleanup } from "solid-js";

import { jobStore, projectStore, streamStore } from "./celery-realtime-store.js";

export { cancelJob, rerunJob } from "./celery-realtime-store.js";

const valueOf = (given) => (typeof given === "function" ? given() : given);

// An effect subscribes: nothing is followed on a server.
function followed(make, ...sources) {
  const store = createMemo(() => make(...sources.map(valueOf)));
  const [snapshot, show] = createSignal(store().getSnapshot());
  createEffect(() => {
    const one = store();
    const update = () => show(() => one.getSnapshot());
    onCleanup(one.subscribe(update));
    update();
  });
  const view = {};
  for (const name in snapshot()) {
    const field = createMemo(() => snapshot()[name]);
    Object.defineProperty(view, name, { get: field, enumerable: true });
  }
  return view;
}

// Each argument may be a value or an accessor.
export const createProject = (socket, projectId, options) => followed(projectStore, socket, projectId, options);
export const createJob = (socket, jobId, options) => followed(jobStore, socket, jobId, options);
export const createStream = (socket, jobId, name, options) => followed(streamStore, socket, jobId, name, options);
