// What an import of "celery-realtime" gives.

export { createSocket } from "./celery-realtime-socket.js";
export { cancelJob, subscribeJob } from "./celery-realtime-streams.js";
export { keepToken } from "./celery-realtime-token.js";
export { subscribeProject } from "./celery-realtime.js";
