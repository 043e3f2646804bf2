/** Projects, jobs and streams for Svelte (5): stores, and the same to be read directly in runes mode. */

import type { Readable } from "svelte/store";
import type { SocketLike } from "./celery-realtime.js";
import type { JobStoreOptions, JobStoreSnapshot, ProjectSnapshot, ProjectStoreOptions, StreamSnapshot } from "./celery-realtime-store.js";

export { cancelJob, rerunJob } from "./celery-realtime-store.js";

/** A store (`$view.jobs`), and in effects and templates the same without the dollar (`view.jobs`). */
export type View<Snapshot> = Readable<Snapshot> & Readonly<Snapshot> & {
  /** All of it at one moment; the same object until something changes. */
  readonly current: Snapshot;
};

/** Follow a project, as long as something shows it. No socket yet, or no id: nothing is followed. */
export function project(socket: SocketLike | null | undefined, projectId: string | number | null | undefined, options?: ProjectStoreOptions): View<ProjectSnapshot>;
/** Follow one job, and its streams. */
export function job(socket: SocketLike | null | undefined, jobId: string | null | undefined, options?: JobStoreOptions): View<JobStoreSnapshot>;
/** Follow one stream of a job: its `text`, or its `items`. */
export function stream<Item = any>(socket: SocketLike | null | undefined, jobId: string | null | undefined, name: string, options?: JobStoreOptions): View<StreamSnapshot<Item>>;
