/** Follow one job and what it says bit by bit: each character or item once, and in order. */

import type { Lifecycle, SocketLike, SubscriptionState } from "./celery-realtime.js";
import type { Cancelled, Job, MetadataUpdate, ProgressUpdate, RealtimeError, Rerun, StatusChange, StreamKind, StreamState } from "./celery-realtime-wire.js";

export type { StreamState } from "./celery-realtime-wire.js";

/** Immutable: whenever anything changes, it is replaced by another object. */
export interface Stream<Value = string | readonly unknown[]> {
  readonly name: string;
  readonly kind: StreamKind;
  /** The attempt of the job that it is of. */
  readonly attempt: number;
  /** Which start of the stream it is of: a retry starts it anew, with a higher number. */
  readonly generation: number;
  /** Where `value` begins: above 0 if what was before has been let go. */
  readonly start: number;
  /** Where it ends, in Unicode characters or items. */
  readonly position: number;
  /** A text, or an array of items. */
  readonly value: Value;
  readonly state: StreamState;
}

/** An item of the stream `log`: what a job has logged or printed. */
export interface LogLine {
  /** UTC, ISO 8601, milliseconds, `Z`. */
  readonly time: string;
  /** Such as `INFO`. */
  readonly level: string;
  /** Its name; `stdout` or `stderr` of what was printed. */
  readonly logger: string;
  readonly message: string;
  /** How many characters of the message are missing. */
  readonly truncated?: number;
  /** How many lines are missing before this one, which says so. */
  readonly dropped?: number;
}

export interface JobSnapshot {
  readonly state: SubscriptionState;
  readonly error: RealtimeError | null;
  /** The latest status and progress of the job; null before it is known. */
  readonly job: Job | null;
  readonly streams: ReadonlyMap<string, Stream>;
  /** The server keeps no streams: what was said before is not known. */
  readonly liveOnly: boolean;
}

export interface JobSubscription extends JobSnapshot {
  readonly jobId: string;
  /** Call `listener` at every change; returns a function that removes it. For React's `useSyncExternalStore`. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The same object until something changes. For React's `useSyncExternalStore`. */
  readonly getSnapshot: () => JobSnapshot;
  /** Cancel the job, if a rule of the server allows it; as `cancelJob`. */
  cancel(): Promise<CancelAnswer>;
  /** Change these options, at once: `job.update({ enabled: false })`. */
  update(options: Lifecycle): void;
  /** Leave the job, which goes on. No callback is called afterwards. */
  close(): void;
}

export interface JobOptions extends Lifecycle {
  /** The job's project: needed without a history, and for a job that was not published yet. */
  projectId?: string | number;
  /** Of each stream, how many characters or items to begin with, its newest; by default all that is kept. */
  tail?: number;
  /** A stream has grown, by `chunk` (a text or an array), or has another state. */
  onChunk?(stream: Stream, chunk: string | readonly unknown[], job: JobSubscription): void;
  onStatus?(status: StatusChange, job: JobSubscription): void;
  onProgress?(update: ProgressUpdate, job: JobSubscription): void;
  onMetadata?(update: MetadataUpdate, job: JobSubscription): void;
  /** Called after every change. */
  onChange?(job: JobSubscription): void;
  /** Milliseconds to wait for an answer; 5000. */
  ackTimeout?: number;
  /** Milliseconds to wait for a missing chunk before asking for it; 250. */
  gapTimeout?: number;
  /** Milliseconds until the first retry; roughly doubles each time; 500. */
  firstPause?: number;
  /** Longest pause between two retries, in milliseconds; 10000. */
  longestPause?: number;
}

/** Subscribe to a job and its streams, now and after each reconnection, until `close()`. */
export function subscribeJob(socket: SocketLike, jobId: string, options?: JobOptions): JobSubscription;

export interface CancelAnswer extends Partial<Pick<Cancelled, "cancel" | "how">> {
  readonly ok: boolean;
  readonly error?: RealtimeError;
}

/** Ask the server to cancel a job. Never rejects: without a connection or an answer, `error.code` is `unavailable`. */
export function cancelJob(
  socket: SocketLike | null | undefined,
  jobId: string,
  options?: { projectId?: string | number; /** Milliseconds; 5000. */ ackTimeout?: number },
): Promise<CancelAnswer>;

export interface RerunAnswer extends Partial<Pick<Rerun, "job_id" | "project_id" | "rerun_of">> {
  readonly ok: boolean;
  readonly error?: RealtimeError;
}

/**
 * Ask the server to run a job again; `job_id` of the answer is the new job. Never rejects: without a connection or an
 * answer, `error.code` is `unavailable`; without an answer the job may run again all the same.
 */
export function rerunJob(
  socket: SocketLike | null | undefined,
  jobId: string,
  options?: { projectId?: string | number; /** Milliseconds; 15000. */ ackTimeout?: number },
): Promise<RerunAnswer>;
