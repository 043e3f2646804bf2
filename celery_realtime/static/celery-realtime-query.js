// Projects and jobs in the cache of TanStack Query (5), for any of its frameworks: useQuery(projectQuery(socket, "apollo")).

import { jobStore, keyOf, projectStore } from "./celery-realtime-store.js";

const following = new WeakMap(); // query -> what ends it

export const projectQuery = (socket, projectId, options) => queryOf("project", projectStore, socket, projectId, options);
export const jobQuery = (socket, jobId, options) => queryOf("job", jobStore, socket, jobId, options);

function queryOf(name, make, socket, id, { client, ...options } = {}) {
  const settings = JSON.parse(keyOf(options));
  return {
    queryKey: ["celery-realtime", name, id ?? null, ...(settings.length ? [Object.fromEntries(settings)] : [])],
    queryFn: (context) => follow(make(socket, id, options), context.client ?? client, context),
    enabled: options.enabled !== false && !!socket && (id ?? "") !== "",
    staleTime: Infinity, // what changes is written into the cache
    refetchOnMount: true, // nobody has looked at it for a while
    structuralSharing: false, // what did not change is the same object already
    retry: false, // the subscription tries again by itself
  };
}

// Resolves to the first answer. What follows is written into the cache, as long as somebody looks at it.
function follow(store, client, { queryKey, signal }) {
  if (!client) throw new Error("celery-realtime/query needs TanStack Query 5.65 or later, or projectQuery(..., { client })");
  const cache = client.getQueryCache();
  const query = cache.find({ queryKey, exact: true });
  const leaving = [];
  const end = () => { for (const leave of leaving.splice(0)) leave(); };
  following.get(query)?.();
  following.set(query, end);
  signal.addEventListener("abort", end);
  let isAnswered = false, show;
  leaving.push(cache.subscribe(({ type, query: one, action }) => {
    // The cache takes the first answer later than it was given: what has changed since is newer.
    if (one === query && isAnswered && action?.type === "success" && !action.manual) queueMicrotask(() => leaving.length && show());
    if (one !== query || !/^(observerR|r)emoved$/.test(type) || query.getObserversCount()) return;
    end();
    if (type === "observerRemoved") client.invalidateQueries({ queryKey, exact: true, refetchType: "none" });
  }));
  return new Promise((resolve, reject) => {
    show = () => {
      const snapshot = store.getSnapshot(), { status, error } = snapshot;
      if (isAnswered) client.setQueryData(queryKey, snapshot);
      else if (status === "refused") {
        end();
        reject(Object.assign(new Error(error?.message), { code: error?.code }));
      } else if (status !== "subscribing") {
        isAnswered = true;
        resolve(snapshot);
      }
    };
    leaving.push(store.subscribe(show));
    show();
  });
}
