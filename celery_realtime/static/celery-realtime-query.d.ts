/** Projects and jobs in the cache of TanStack Query (5.65 or later), for any of its frameworks. */

import type { QueryClient, QueryFunction } from "@tanstack/query-core";
import type { SocketLike } from "./celery-realtime.js";
import type { JobStoreOptions, JobStoreSnapshot, ProjectSnapshot, ProjectStoreOptions } from "./celery-realtime-store.js";

export interface RealtimeQuery<Snapshot> {
  queryKey: readonly unknown[];
  queryFn: QueryFunction<Snapshot, any>;
  enabled: boolean;
  staleTime: number;
  refetchOnMount: boolean;
  structuralSharing: boolean;
  retry: boolean;
}

interface WithClient {
  /** Needed only where TanStack Query does not pass it to query functions, before 5.65. */
  client?: QueryClient;
}

/**
 * Options for `useQuery` and the like: the project is followed while somebody looks at the query, and each change is
 * written into the cache. A refusal of the first request is the query's error, whose `code` says why.
 */
export function projectQuery(socket: SocketLike | null | undefined, projectId: string | number | null | undefined, options?: ProjectStoreOptions & WithClient): RealtimeQuery<ProjectSnapshot>;

/** The same for one job, and its streams. */
export function jobQuery(socket: SocketLike | null | undefined, jobId: string | null | undefined, options?: JobStoreOptions & WithClient): RealtimeQuery<JobStoreSnapshot>;
