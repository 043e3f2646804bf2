// What an import of "celery-realtime" gives.

import { subscribeProject as follow } from "./celery-realtime-filter.js";
import { attend } from "./celery-realtime-lifecycle.js";

export { matches } from "./celery-realtime-filter.js";
export { createSocket } from "./celery-realtime-socket.js";
export { cancelJob, rerunJob, subscribeJob } from "./celery-realtime-streams.js";
export { keepToken } from "./celery-realtime-token.js";

// The same, without a module to load before it knows when to leave and come back.
export function subscribeProject(socket, projectId, options) {
  return follow(socket, projectId, { ...options, attend });
}
