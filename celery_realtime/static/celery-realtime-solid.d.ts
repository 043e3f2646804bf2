/** Projects, jobs and streams for Solid (1.8 and later): objects to be read as props are, so not to be destructured. */

import type { SocketLike } from "./celery-realtime.js";
import type { JobStoreOptions, JobStoreSnapshot, ProjectSnapshot, ProjectStoreOptions, StreamSnapshot } from "./celery-realtime-store.js";

export { cancelJob, rerunJob } from "./celery-realtime-store.js";

type Given<Value> = Value | (() => Value);
type Socket = SocketLike | null | undefined;

/** Follow a project while its owner lives. No socket yet, or no id: nothing is followed. */
export function createProject(socket: Given<Socket>, projectId: Given<string | number | null | undefined>, options?: Given<ProjectStoreOptions | undefined>): ProjectSnapshot;
/** Follow one job, and its streams. */
export function createJob(socket: Given<Socket>, jobId: Given<string | null | undefined>, options?: Given<JobStoreOptions | undefined>): JobStoreSnapshot;
/** Follow one stream of a job: its `text`, or its `items`. */
export function createStream<Item = any>(socket: Given<Socket>, jobId: Given<string | null | undefined>, name: Given<string>, options?: Given<JobStoreOptions | undefined>): StreamSnapshot<Item>;
