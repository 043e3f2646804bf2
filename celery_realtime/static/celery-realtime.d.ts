/** Follow every job of a project over a socket of socket.io-client (v4): each event once, and in order. */

export type Status = "queued" | "running" | "success" | "error";

/** `stale`: what is shown may be out of date, and is being caught up with. `refused`: see `error`. */
export type SubscriptionState = "subscribing" | "subscribed" | "stale" | "refused";

export interface StatusChange {
  readonly event: "status_change";
  readonly job_id: string;
  readonly project_id: string;
  readonly status: Status;
  /** Celery's own word: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED, IGNORED or LOST. */
  readonly state: string;
  /** UTC, ISO 8601, milliseconds, `Z`. */
  readonly timestamp: string;
  readonly result: unknown;
  readonly truncated?: true;
  /** One line, such as `ValueError: message`. */
  readonly error: string | null;
  readonly traceback?: string;
  readonly task: string | null;
  /** 0 at first, one more for each retry. */
  readonly attempt: number;
  readonly root_id: string | null;
  readonly parent_id: string | null;
  readonly group_id: string | null;
  readonly worker: string | null;
  readonly epoch?: string;
  readonly offset?: number;
}

export interface ProgressUpdate {
  readonly event: "progress_update";
  readonly job_id: string;
  readonly project_id: string;
  /** 0 to 100. */
  readonly progress: number;
  readonly message: string | null;
  readonly current: number | null;
  readonly total: number | null;
  readonly timestamp: string;
  readonly task: string | null;
  readonly attempt: number;
  readonly stalled?: true;
  readonly epoch?: string;
  readonly offset?: number;
}

/** The latest status of a job, and how far it is. */
export interface Job extends Omit<StatusChange, "epoch" | "offset"> {
  readonly progress: number | null;
  readonly message: string | null;
  readonly current: number | null;
  readonly total: number | null;
  readonly stalled: boolean;
}

/** A chain, group or chord of more than one job. */
export interface Workflow {
  readonly root_id: string;
  readonly project_id: string;
  readonly total: number;
  readonly queued: number;
  readonly running: number;
  readonly done: number;
  readonly failed: number;
  readonly progress: number;
}

export type RefusalCode = "unauthorized" | "forbidden" | "bad_request" | "too_many_requests" | "unavailable";

/** Why a subscription is refused, or the connection is; your own server may have further codes for the latter. */
export interface RealtimeError {
  readonly code: RefusalCode | (string & {});
  readonly message: string;
}

/** Replaced by another object whenever anything changes, and never changed itself. */
export interface Snapshot {
  readonly state: SubscriptionState;
  readonly jobs: ReadonlyMap<string, Job>;
  readonly workflows: ReadonlyMap<string, Workflow>;
  /** How many jobs the project had when its snapshot was taken; `jobs` may have begun with fewer. */
  readonly jobsTotal: number;
  readonly error: RealtimeError | null;
}

/**
 * Why `onChange` is called. `snapshot`: what was known has been replaced, and events may have been missed
 * (`recovered: false`). `jobs`, `workflows`: the entry `key` is new. `state`: only `state` or `error` is.
 */
export type Change =
  | { readonly reason: "snapshot"; readonly recovered: false }
  | { readonly reason: "jobs" | "workflows"; readonly key: string }
  | { readonly reason: "state" };

export interface ProjectSubscription extends Omit<Snapshot, "jobsTotal"> {
  readonly projectId: string;
  /** Of the history; null without one. */
  readonly epoch: string | null;
  /** Up to where everything has been passed on; null without a history. */
  readonly offset: number | null;
  /** Call `listener` at every change; returns a function that ends it. For React's `useSyncExternalStore`. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The same object until something changes. For React's `useSyncExternalStore`. */
  readonly getSnapshot: () => Snapshot;
  /** Leave the project, unless another subscription of this socket needs it. No callback is called any more. */
  close(): void;
}

export interface Options {
  onStatus?(status: StatusChange, project: ProjectSubscription): void;
  onProgress?(update: ProgressUpdate, project: ProjectSubscription): void;
  onWorkflow?(workflow: Workflow, project: ProjectSubscription): void;
  /** An event of your own, under its own name; `data._realtime` says which job it is of, if it is an object. */
  onEvent?(name: string, data: any, project: ProjectSubscription): void;
  /** After every change; more often than `onStatus` and the others, which are called for events only. */
  onChange?(project: ProjectSubscription, change: Change): void;
  /** Where to begin: of a handle that was made before the page. Its events are passed on first. */
  since?: { readonly epoch: string; readonly offset: number } | null;
  /** Let events come as lists, which costs less in busy projects. The socket's own handlers do not see them then. */
  batch?: boolean;
  /** Milliseconds to wait for an answer; 5000. */
  ackTimeout?: number;
  /** Milliseconds that a hole is given to fill by itself; 250. */
  gapTimeout?: number;
  /** Milliseconds of silence after which the server is asked whether something was missed; 30000. */
  checkInterval?: number;
  /** Milliseconds until the first retry, about doubled each time; 500. */
  firstPause?: number;
  /** Longest time between two retries, in milliseconds; 10000. */
  longestPause?: number;
  /** Jobs beyond which those that have ended are forgotten, the oldest first; 2000. Workflows likewise. */
  maxJobs?: number;
}

/** The part of a socket.io-client `Socket` that is used. */
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
