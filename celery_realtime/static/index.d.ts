export * from "./celery-realtime.js";
export * from "./celery-realtime-socket.js";
export * from "./celery-realtime-streams.js";
export * from "./celery-realtime-token.js";
export { matches, subscribeProject } from "./celery-realtime-filter.js";
export type { Filter, FilteredSnapshot, FilteredSubscription, FilterOptions } from "./celery-realtime-filter.js";
