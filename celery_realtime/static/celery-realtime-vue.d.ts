/** Projects, jobs and streams as refs of Vue (3): one subscription, however many components show it. */

import type { ComputedRef, MaybeRef, MaybeRefOrGetter, Plugin, ShallowRef } from "vue";
import type { SocketLike } from "./celery-realtime.js";
import type { CreateSocketOptions } from "./celery-realtime-socket.js";
import type {
  CancelAnswer, JobStoreOptions, JobStoreSnapshot, ProjectSnapshot, ProjectStoreOptions, RerunAnswer, StreamSnapshot,
} from "./celery-realtime-store.js";

export interface RealtimeOptions extends CreateSocketOptions {
  /** A socket of yours, or null while there is none. Without it, the plugin makes one in the browser, and closes it with the app. */
  socket?: MaybeRef<SocketLike | null>;
  url?: string | URL;
}

/** `app.use(realtime, { socket })`, or `{ url, token }` for `createSocket()`. */
export const realtime: Plugin<[options?: RealtimeOptions]>;

/** The socket that is given, or the app's; its value is null while there is none. */
export function useSocket(given?: MaybeRefOrGetter<SocketLike | null>): ComputedRef<SocketLike | null>;

type Refs<Snapshot> = { readonly [Name in keyof Snapshot]: ComputedRef<Snapshot[Name]> } & {
  /** All of them at one moment; the same object until something changes. */
  readonly snapshot: Readonly<ShallowRef<Snapshot>>;
};
type In<Options> = MaybeRefOrGetter<
  Omit<Options, "enabled" | "filter"> & {
    enabled?: MaybeRefOrGetter<boolean | undefined>;
    filter?: Options extends { filter?: infer Filter } ? MaybeRefOrGetter<Filter> : undefined;
    /** In place of the app's. */
    socket?: MaybeRef<SocketLike | null>;
  }
>;
type Id = MaybeRefOrGetter<string | number | null | undefined>;

/** Follow a project. Without an id, or with `enabled: false`, its `status` is `"idle"`. */
export function useProject(projectId: Id, options?: In<ProjectStoreOptions>): Refs<ProjectSnapshot>;
/** Follow one job, and its streams. */
export function useJob(jobId: MaybeRefOrGetter<string | null | undefined>, options?: In<JobStoreOptions>): Refs<JobStoreSnapshot>;
/** Follow one stream of a job: its `text`, or its `items`. */
export function useStream<Item = any>(jobId: MaybeRefOrGetter<string | null | undefined>, name: MaybeRefOrGetter<string>, options?: In<JobStoreOptions>): Refs<StreamSnapshot<Item>>;
/** A function that asks the server to cancel a job, and never rejects. */
export function useCancel(options?: { socket?: MaybeRefOrGetter<SocketLike | null> }): (jobId: string, options?: { projectId?: string | number; ackTimeout?: number }) => Promise<CancelAnswer>;
/** A function that asks the server to run a job again, and never rejects. */
export function useRerun(options?: { socket?: MaybeRefOrGetter<SocketLike | null> }): (jobId: string, options?: { projectId?: string | number; ackTimeout?: number }) => Promise<RerunAnswer>;
