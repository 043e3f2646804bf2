/** Projects, jobs and streams as state of React (18 and 19): one subscription, however many components show it. */

import type { ReactElement, ReactNode } from "react";
import type { SocketLike } from "./celery-realtime.js";
import type { CreateSocketOptions } from "./celery-realtime-socket.js";
import type {
  CancelAnswer, JobStoreOptions, JobStoreSnapshot, ProjectSnapshot, ProjectStoreOptions, RerunAnswer, StreamSnapshot,
} from "./celery-realtime-store.js";

export interface RealtimeProviderProps {
  /** A socket of yours, or null while there is none. Without it, the provider makes one in the browser, and closes it. */
  socket?: SocketLike | null;
  /** For `createSocket()`. */
  url?: string | URL;
  /** For `createSocket()`; the newest function is called. */
  token?: CreateSocketOptions["token"];
  /** For `createSocket()`. */
  options?: Omit<CreateSocketOptions, "token">;
  children?: ReactNode;
}

export function RealtimeProvider(props: RealtimeProviderProps): ReactElement;

/** The provider's socket, or null while there is none. Throws without a provider. */
export function useSocket(given?: SocketLike | null): SocketLike | null;

interface HookOptions {
  /** In place of the provider's. */
  socket?: SocketLike | null;
  /** Suspend until the first answer; false. On a server it has no effect. */
  suspense?: boolean;
}
interface Select<Snapshot, Value> {
  /** What is returned of a snapshot. The component is rendered anew when that changes, compared one level deep. */
  select: (snapshot: Snapshot) => Value;
}

/** Follow a project. Without an id, or with `enabled: false`, its `status` is `"idle"`. */
export function useProject<Value>(projectId: string | number | null | undefined, options: ProjectStoreOptions & HookOptions & Select<ProjectSnapshot, Value>): Value;
export function useProject(projectId: string | number | null | undefined, options?: ProjectStoreOptions & HookOptions): ProjectSnapshot;

/** Follow one job, and its streams. */
export function useJob<Value>(jobId: string | null | undefined, options: JobStoreOptions & HookOptions & Select<JobStoreSnapshot, Value>): Value;
export function useJob(jobId: string | null | undefined, options?: JobStoreOptions & HookOptions): JobStoreSnapshot;

/** Follow one stream of a job: its `text`, or its `items`. */
export function useStream<Value, Item = any>(jobId: string | null | undefined, name: string, options: JobStoreOptions & HookOptions & Select<StreamSnapshot<Item>, Value>): Value;
export function useStream<Item = any>(jobId: string | null | undefined, name: string, options?: JobStoreOptions & HookOptions): StreamSnapshot<Item>;

/** A function that asks the server to cancel a job, and never rejects. */
export function useCancel(options?: { socket?: SocketLike | null }): (jobId: string, options?: { projectId?: string | number; ackTimeout?: number }) => Promise<CancelAnswer>;

/** A function that asks the server to run a job again, and never rejects. */
export function useRerun(options?: { socket?: SocketLike | null }): (jobId: string, options?: { projectId?: string | number; ackTimeout?: number }) => Promise<RerunAnswer>;
