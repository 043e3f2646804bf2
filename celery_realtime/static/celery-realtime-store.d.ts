/**
 * One view of a project or a job for all that show it, for any framework or none: `subscribe(listener)`, and
 * `getSnapshot()`, which returns the same object until something changes.
 *
 * All stores of one socket, project and options share a subscription. It begins with the first listener, and ends a
 * moment after the last (`linger`), so that who comes right back finds it open.
 */

import type { Job, RealtimeError, SocketLike, SubscriptionState, Workflow } from "./celery-realtime.js";
import type { FilterOptions } from "./celery-realtime-filter.js";
import type { JobOptions, Stream, StreamState } from "./celery-realtime-streams.js";

export { cancelJob, rerunJob } from "./celery-realtime-streams.js";
export type { CancelAnswer, RerunAnswer } from "./celery-realtime-streams.js";

/** The state of a subscription; `idle` also while there is nothing to follow. */
export type StoreStatus = SubscriptionState;

/** Immutable: what has not changed is the same object as before, each job included. */
export interface ProjectSnapshot {
  readonly status: StoreStatus;
  readonly error: RealtimeError | null;
  readonly jobs: ReadonlyMap<string, Job>;
  readonly workflows: ReadonlyMap<string, Workflow>;
  /** How many jobs the project had when its snapshot was taken. */
  readonly jobsTotal: number;
  /** There are jobs, which may match the `filter`, beyond the `limit`. */
  readonly hasMore: boolean;
  /** Read on until there are `count` more jobs, or no others; `count` is `limit`, or 1000. */
  readonly loadMore: (count?: number) => void;
}

/** Immutable: what has not changed is the same object as before. */
export interface JobStoreSnapshot {
  readonly status: StoreStatus;
  readonly error: RealtimeError | null;
  /** Null before it is known. */
  readonly job: Job | null;
  readonly streams: ReadonlyMap<string, Stream>;
  /** The server keeps no streams: what was said before is not known. */
  readonly liveOnly: boolean;
}

/** Immutable. */
export interface StreamSnapshot<Item = any> {
  readonly status: StoreStatus;
  readonly error: RealtimeError | null;
  /** Null before the job has written anything. */
  readonly stream: Stream | null;
  /** Of a `text` stream, all that is kept; else empty. */
  readonly text: string;
  /** Of a `json` stream, all that is kept; else empty. */
  readonly items: readonly Item[];
}

export interface Store<Snapshot> {
  /** Call `listener` after a change; returns a function that removes it. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The same object until something changes. */
  readonly getSnapshot: () => Snapshot;
  /** What a server renders, and the first rendering of a browser. */
  readonly getServerSnapshot: () => Snapshot;
  /** A promise that resolves with the first answer; null if that is there, or if nothing is followed. Opens the subscription. */
  readonly pending: () => Promise<void> | null;
  /** Put other callbacks (`onStatus`, `onEvent` ...) in place of those of the options. */
  readonly setCallbacks: (callbacks: object) => void;
  /** Remove all listeners of this store. */
  readonly close: () => void;
}

interface Shared {
  /** At least so many milliseconds lie between two changes; 16. */
  throttle?: number;
  /** Milliseconds that a subscription outlives its last listener; 1000. */
  linger?: number;
}

export interface ProjectStoreOptions extends Omit<FilterOptions, "onChange">, Shared {}
export interface JobStoreOptions extends Omit<JobOptions, "onChange">, Shared {}

/** No socket yet, or no project: nothing is followed. */
export function projectStore(socket: SocketLike | null | undefined, projectId: string | number | null | undefined, options?: ProjectStoreOptions): Store<ProjectSnapshot>;
export function jobStore(socket: SocketLike | null | undefined, jobId: string | null | undefined, options?: JobStoreOptions): Store<JobStoreSnapshot>;
/** It changes with this stream alone. */
export function streamStore<Item = any>(socket: SocketLike | null | undefined, jobId: string | null | undefined, name: string, options?: JobStoreOptions): Store<StreamSnapshot<Item>>;
/**
 * What `select` makes of a store's snapshots. It changes when that does: objects and lists are compared one level deep.
 *
 * @param before - What another `select` has returned before: the same object is returned if nothing differs.
 */
export function selected<Snapshot, Value>(store: Store<Snapshot>, select: (snapshot: Snapshot) => Value, before?: Value): Store<Value>;

/** What two lists of options have to have in common for one subscription. */
export function keyOf(options?: object): string;

/** A project has a store, a job has another, and a stream is read from its job's. */
export type { Job, RealtimeError, SocketLike, Stream, StreamState, Workflow };
