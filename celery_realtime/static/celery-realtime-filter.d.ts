/** Follow those jobs of a project that match a filter, or the first of many: what is shown is what matches, live. */

import type { Job, Options, ProjectSubscription, SocketLike, Snapshot, Status } from "./celery-realtime.js";

/**
 * Which jobs are wanted: those of which each member that is there has a value that fits. A text is a list of one; an
 * empty list is none. In `task` and `label` `*` stands for any characters; else a text has to be the same.
 */
export interface Filter {
  readonly status?: Status | readonly Status[] | null;
  readonly task?: string | readonly string[] | null;
  /** A job without a label fits none. */
  readonly label?: string | readonly string[] | null;
}

export interface FilterOptions extends Options {
  /** Which jobs to show; all. Events of other jobs reach no callback; your own events and workflows do. */
  filter?: Filter | null;
  /** How many jobs to read at first, in steps of what a server sends at once; `maxJobs`. See `loadMore`. */
  limit?: number;
}

export interface FilteredSnapshot extends Snapshot {
  /** There are jobs, which may match, that have not been read. */
  readonly hasMore?: boolean;
  /** Read on until there are `count` more jobs, or no others; `count` is `limit`, or 1000. */
  readonly loadMore?: (count?: number) => void;
}

/** With neither `filter` nor `limit`, `hasMore` and `loadMore` are absent. */
export interface FilteredSubscription extends ProjectSubscription {
  readonly hasMore?: boolean;
  readonly loadMore?: (count?: number) => void;
  readonly getSnapshot: () => FilteredSnapshot;
}

/** As that of `celery-realtime.js`, with a filter. */
export function subscribeProject(socket: SocketLike, projectId: string | number, options?: FilterOptions): FilteredSubscription;

/** Does a job match a filter? */
export function matches(filter: Filter | null | undefined, job: Partial<Pick<Job, "status" | "task" | "label">>): boolean;
