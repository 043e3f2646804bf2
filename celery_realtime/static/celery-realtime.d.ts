/** Follow every job of a project over a socket of socket.io-client (v4): each event once, and in order. */

import type { Job, MetadataUpdate, ProgressUpdate, RealtimeError, Since, StatusChange, Workflow } from "./celery-realtime-wire.js";

export type {
  Job,
  MetadataUpdate,
  ProgressUpdate,
  RealtimeError,
  RefusalCode,
  StageState as Stage,
  Status,
  StatusChange,
  Workflow,
} from "./celery-realtime-wire.js";

/**
 * `stale`: the state may be out of date, and the subscription is catching up. `refused`: see `error`. Only with the
 * options of `Lifecycle`: `idle`: not enabled. `paused`: the page is hidden. `closed`: all has ended.
 */
export type SubscriptionState = "subscribing" | "subscribed" | "stale" | "refused" | "idle" | "paused" | "closed";

/** When to leave, and to come back. In the meantime what is known stays as it is; whoever comes back catches up. */
export interface Lifecycle {
  /** Follow; true. While it is false, `state` is `"idle"`. */
  enabled?: boolean;
  /** Leave while the page is hidden, and catch up when it is seen again; false. Without a history it has no effect. */
  pauseOnHidden?: boolean;
  /** Leave when the job with its streams, or each job of the project, has ended for good; false. */
  closeOnEnd?: boolean;
}

/** Immutable: whenever anything changes, it is replaced by another object. */
export interface Snapshot {
  readonly state: SubscriptionState;
  readonly jobs: ReadonlyMap<string, Job>;
  readonly workflows: ReadonlyMap<string, Workflow>;
  /** How many jobs the project had when its snapshot was taken; the snapshot may hold fewer of them. */
  readonly jobsTotal: number;
  readonly error: RealtimeError | null;
}

/**
 * Why `onChange` is called. `snapshot`: all jobs and workflows have been replaced, and events may have been missed
 * (`recovered: false`), or further jobs of a large project have come (`recovered: true`). `jobs`, `workflows`: the entry `key` has changed; or `left`, which is not shown any more, since it does not match a filter. `state`: only `state` or `error` has.
 */
export type Change =
  | { readonly reason: "snapshot"; readonly recovered: boolean }
  | { readonly reason: "jobs" | "workflows"; readonly key: string; readonly left?: Job }
  | { readonly reason: "state" };

export interface ProjectSubscription extends Omit<Snapshot, "jobsTotal"> {
  readonly projectId: string;
  /** The epoch of the project's history; null without one. */
  readonly epoch: string | null;
  /** The offset up to which every event has been passed on; null without a history. */
  readonly offset: number | null;
  /** Call `listener` at every change; returns a function that removes it. For React's `useSyncExternalStore`. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The same object until something changes. For React's `useSyncExternalStore`. */
  readonly getSnapshot: () => Snapshot;
  /** Change these options, at once: `project.update({ enabled: false })`. */
  update(options: Lifecycle): void;
  /** Leave the project, unless another subscription of this socket uses it. No callback is called afterwards. */
  close(): void;
}

export interface Options extends Lifecycle {
  onStatus?(status: StatusChange, project: ProjectSubscription): void;
  onProgress?(update: ProgressUpdate, project: ProjectSubscription): void;
  onMetadata?(update: MetadataUpdate, project: ProjectSubscription): void;
  onWorkflow?(workflow: Workflow, project: ProjectSubscription): void;
  /** A custom event, under its own name; if `data` is an object, `data._realtime` names its job. */
  onEvent?(name: string, data: any, project: ProjectSubscription): void;
  /** Called after every change; unlike `onStatus` and the others, not only for events. */
  onChange?(project: ProjectSubscription, change: Change): void;
  /** The position to begin at, from a handle created before the page. Events since then are passed on first. */
  since?: Since | null;
  /** Receive events as lists, which costs less in busy projects; true. The socket's own handlers do not see them then. */
  batch?: boolean;
  /** Milliseconds to wait for an answer; 5000. */
  ackTimeout?: number;
  /** Milliseconds to wait for a missing event before asking for it; 250. */
  gapTimeout?: number;
  /** Milliseconds without an event after which to ask the server whether any was missed; 30000. */
  checkInterval?: number;
  /** Milliseconds until the first retry; roughly doubles each time; 500. */
  firstPause?: number;
  /** Longest pause between two retries, in milliseconds; 10000. */
  longestPause?: number;
  /** Beyond this many jobs, those that have ended are dropped, oldest first; 5000. Workflows likewise. A snapshot is read up to there. */
  maxJobs?: number;
}

/** The part of socket.io-client's `Socket` that is used. */
export interface SocketLike {
  readonly connected: boolean;
  readonly id?: string;
  on(event: string, listener: (...args: any[]) => void): this;
  off(event: string, listener: (...args: any[]) => void): this;
  onAny(listener: (event: string, ...args: any[]) => void): this;
  offAny(listener: (event: string, ...args: any[]) => void): this;
  emit(event: string, ...args: any[]): this;
}

/** Subscribe to a project, now and after each reconnection, until `close()`. */
export function subscribeProject(
  socket: SocketLike,
  projectId: string | number,
  options?: Options,
): ProjectSubscription;
