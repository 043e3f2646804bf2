/** Follow every job of a project over a socket of socket.io-client (v4): each event once, and in order. */

export type Status = "queued" | "running" | "success" | "error";

/** `stale`: the state may be out of date, and the subscription is catching up. `refused`: see `error`. */
export type SubscriptionState = "subscribing" | "subscribed" | "stale" | "refused";

export interface StatusChange {
  readonly event: "status_change";
  readonly job_id: string;
  readonly project_id: string;
  readonly status: Status;
  /** Celery's own state: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED, IGNORED or LOST. */
  readonly state: string;
  /** UTC, ISO 8601, milliseconds, `Z`. */
  readonly timestamp: string;
  readonly result: unknown;
  readonly truncated?: true;
  /** One line, such as `ValueError: message`. */
  readonly error: string | null;
  readonly traceback?: string;
  readonly trace_id?: string;
  readonly span_id?: string;
  readonly task: string | null;
  /** 0 at first; each retry adds 1. */
  readonly attempt: number;
  readonly root_id: string | null;
  readonly parent_id: string | null;
  readonly group_id: string | null;
  readonly worker: string | null;
  /** What a person calls the job. This and the following are absent where they are not known. */
  readonly label?: string;
  readonly queue?: string;
  readonly priority?: number;
  /** When it, or its next attempt, may start. Times are as in `timestamp`. */
  readonly eta?: string;
  readonly expires_at?: string;
  readonly max_retries?: number;
  /** Seconds. */
  readonly soft_time_limit?: number;
  /** Seconds. */
  readonly time_limit?: number;
  readonly queued_at?: string;
  readonly started_at?: string;
  readonly ended_at?: string;
  /** Seconds from its start to its end. */
  readonly runtime?: number;
  /** The first event of a newer run of the job: nothing that was reported of the run before applies to it. */
  readonly new_run?: true;
  readonly epoch?: string;
  readonly offset?: number;
}

/** A part of a job. */
export interface Stage {
  readonly name: string;
  readonly weight: number;
  readonly status: "pending" | "running" | "done" | "failed";
  /** 0 to 100. */
  readonly progress: number;
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
  /** Of a job with stages, the one that this is about; null for none of them. */
  readonly stage?: string | null;
  /** Of a job with stages, those that are known, whose weighted mean `progress` is. */
  readonly stages?: readonly Stage[];
  /** The first event of a newer run of the job: nothing that was reported of the run before applies to it. */
  readonly new_run?: true;
  readonly epoch?: string;
  readonly offset?: number;
}

/** What has changed of a job's metadata. */
export interface MetadataUpdate {
  readonly event: "metadata_update";
  readonly job_id: string;
  readonly project_id: string;
  /** Keys, and the values that they have now. */
  readonly set: Readonly<Record<string, unknown>>;
  readonly deleted: readonly string[];
  readonly timestamp: string;
  readonly epoch?: string;
  readonly offset?: number;
}

/** The latest status and progress of a job, and its metadata. */
export interface Job extends Omit<StatusChange, "epoch" | "offset" | "new_run"> {
  readonly progress: number | null;
  readonly message: string | null;
  readonly current: number | null;
  readonly total: number | null;
  readonly stalled: boolean;
  readonly stage?: string | null;
  readonly stages?: readonly Stage[];
  readonly metadata?: Readonly<Record<string, any>>;
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

/** Why a subscription or the connection was refused; your own server may use further codes for the latter. */
export interface RealtimeError {
  readonly code: RefusalCode | (string & {});
  readonly message: string;
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
 * (`recovered: false`), or further jobs of a large project have come (`recovered: true`). `jobs`, `workflows`: the entry `key` has changed. `state`: only `state` or `error` has.
 */
export type Change =
  | { readonly reason: "snapshot"; readonly recovered: boolean }
  | { readonly reason: "jobs" | "workflows"; readonly key: string }
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
  /** Leave the project, unless another subscription of this socket uses it. No callback is called afterwards. */
  close(): void;
}

export interface Options {
  onStatus?(status: StatusChange, project: ProjectSubscription): void;
  onProgress?(update: ProgressUpdate, project: ProjectSubscription): void;
  onMetadata?(update: MetadataUpdate, project: ProjectSubscription): void;
  onWorkflow?(workflow: Workflow, project: ProjectSubscription): void;
  /** A custom event, under its own name; if `data` is an object, `data._realtime` names its job. */
  onEvent?(name: string, data: any, project: ProjectSubscription): void;
  /** Called after every change; unlike `onStatus` and the others, not only for events. */
  onChange?(project: ProjectSubscription, change: Change): void;
  /** The position to begin at, from a handle created before the page. Events since then are passed on first. */
  since?: { readonly epoch: string; readonly offset: number } | null;
  /** Receive events as lists, which costs less in busy projects. The socket's own handlers do not see them then. */
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
