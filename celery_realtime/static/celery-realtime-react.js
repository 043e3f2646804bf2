"use client";
// Projects, jobs and streams as state of React (18 and 19): one subscription, however many components show it.

import {
  createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore,
} from "react";

import { createSocket } from "./celery-realtime-socket.js";
import { cancelJob, jobStore, keyOf, projectStore, rerunJob, selected, streamStore } from "./celery-realtime-store.js";

const SocketContext = createContext();

// Around a socket of yours, or one that it makes in the browser and closes: `url`, `token`, `options` of createSocket().
export function RealtimeProvider({ socket, url, token, options, children }) {
  const [own, setOwn] = useState(null);
  const latest = useRef();
  const place = url === undefined ? url : String(url); // a new URL in each rendering is the same place
  useEffect(() => { latest.current = token; });
  useEffect(() => {
    if (socket !== undefined) return;
    const made = createSocket(place, { ...options, token: typeof token === "function" ? () => latest.current() : token });
    setOwn(made);
    return () => { made.disconnect(); };
  }, [socket, place, keyOf({ ...options, token }), typeof token]);
  return createElement(SocketContext.Provider, { value: socket === undefined ? own : socket }, children);
}

export function useSocket(given) {
  const socket = useContext(SocketContext);
  if (given === undefined && socket === undefined) {
    throw new Error("no socket: put <RealtimeProvider> around this component, or pass { socket }");
  }
  return given === undefined ? socket : given;
}

// Effects subscribe: nothing is followed on a server, nor by what React renders and drops.
function useStore(make, ids, { socket: given, select, suspense, ...options } = {}) {
  const socket = useSocket(given);
  const store = useMemo(() => make(socket, ...ids, options), [socket, ...ids, options.enabled, keyOf(options)]);
  const last = useRef(); // what says the same stays the same object, also where `select` is written in the component
  const view = useMemo(() => (select ? selected(store, select, last.current) : store), [store, select]);
  useEffect(() => store.setCallbacks(options));
  const shown = useSyncExternalStore(view.subscribe, view.getSnapshot, view.getServerSnapshot);
  useEffect(() => { last.current = shown; });
  const pending = suspense && typeof window !== "undefined" && store.pending();
  if (pending) throw pending;
  return shown;
}

export const useProject = (projectId, options) => useStore(projectStore, [projectId], options);
export const useJob = (jobId, options) => useStore(jobStore, [jobId], options);
export const useStream = (jobId, name, options) => useStore(streamStore, [jobId, name], options);

// What resolves to the server's answer.
const asking = (ask) => ({ socket: given } = {}) => {
  const socket = useSocket(given);
  return useCallback((jobId, options) => ask(socket, jobId, options), [socket]);
};

export const useCancel = asking(cancelJob);
export const useRerun = asking(rerunJob);
