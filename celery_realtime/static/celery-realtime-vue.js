// Projects, jobs and streams as refs of Vue (3): one subscription, however many components show it.

import { computed, getCurrentInstance, getCurrentScope, hasInjectionContext, inject, onMounted, shallowRef, toRaw, toValue, watch } from "vue";

import { createSocket } from "./celery-realtime-socket.js";
import { cancelJob, jobStore, keyOf, projectStore, rerunJob, streamStore } from "./celery-realtime-store.js";

const SOCKET = Symbol("celery-realtime");

// app.use(realtime, { socket }), or what createSocket() takes: { url, token }; that one is closed with the app. A server
// makes no socket.
export const realtime = {
  install(app, { socket, url, ...options } = {}) {
    const isMade = socket === undefined && typeof window !== "undefined", own = isMade ? createSocket(url, options) : socket ?? null;
    app.provide(SOCKET, own);
    if (!isMade) return;
    const { unmount } = app;
    app.unmount = (...args) => {
      unmount(...args);
      own.disconnect();
    };
  },
};

// A ref of the socket that is given, or of the app's.
export function useSocket(given) {
  const socket = given === undefined && hasInjectionContext() ? inject(SOCKET, undefined) : given;
  if (socket === undefined) throw new Error("no socket: app.use(realtime, { socket }), or pass { socket }");
  return computed(() => toRaw(toValue(socket)) ?? null);
}

// In a component, what is followed is so from its mounting on: nothing on a server.
function useStore(make, ids, options) {
  const socket = useSocket(toValue(options)?.socket);
  const settings = () => {
    const { socket: _, enabled, filter, ...others } = toValue(options) ?? {};
    return { ...others, ...(filter && { filter: toValue(filter) }), enabled: toValue(enabled) };
  };
  const open = () => make(socket.value, ...ids.map(toValue), settings());
  const snapshot = shallowRef(open().getSnapshot());
  const sources = [socket, ...ids.map((id) => () => toValue(id)), () => settings().enabled, () => keyOf(settings())];
  const start = () => watch(sources, (_, __, onCleanup) => {
    const store = open();
    const show = () => { snapshot.value = store.getSnapshot(); };
    onCleanup(store.subscribe(show));
    show();
  }, { immediate: true });
  // One that components share, as a store of Pinia does, outlives the component that has asked for it first.
  const scope = getCurrentScope();
  if (getCurrentInstance()) onMounted(() => scope.run(start));
  else start();
  const refs = Object.keys(snapshot.value).map((name) => [name, computed(() => snapshot.value[name])]);
  return { snapshot, ...Object.fromEntries(refs) };
}

export const useProject = (projectId, options) => useStore(projectStore, [projectId], options);
export const useJob = (jobId, options) => useStore(jobStore, [jobId], options);
export const useStream = (jobId, name, options) => useStore(streamStore, [jobId, name], options);

// A function that asks the server, and resolves to the answer. Leaving a page cancels nothing.
const asking = (ask) => ({ socket: given } = {}) => {
  const socket = useSocket(given);
  return (jobId, options) => ask(socket.value, jobId, options);
};

export const useCancel = asking(cancelJob);
export const useRerun = asking(rerunJob);
