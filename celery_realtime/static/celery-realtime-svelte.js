// Projects, jobs and streams for Svelte (5): stores, and the same to be read directly in runes mode.

import { createSubscriber } from "svelte/reactivity";

import { jobStore, projectStore, streamStore } from "./celery-realtime-store.js";

export { cancelJob, rerunJob } from "./celery-realtime-store.js";

// A class, as $state() makes proxies of plain objects.
class View {
  constructor(store) {
    const track = createSubscriber((update) => store.subscribe(update));
    const read = () => {
      track();
      return store.getSnapshot();
    };
    // $project calls it without the object.
    this.subscribe = (run) => {
      const show = () => run(store.getSnapshot());
      const leave = store.subscribe(show);
      show();
      return leave;
    };
    Object.defineProperty(this, "current", { get: read });
    for (const name in store.getServerSnapshot()) Object.defineProperty(this, name, { get: () => read()[name] });
  }
}

export const project = (socket, projectId, options) => new View(projectStore(socket, projectId, options));
export const job = (socket, jobId, options) => new View(jobStore(socket, jobId, options));
export const stream = (socket, jobId, name, options) => new View(streamStore(socket, jobId, name, options));
