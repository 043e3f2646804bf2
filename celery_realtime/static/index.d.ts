export * from "./celery-realtime.js";
export * from "./celery-realtime-socket.js";
export * from "./celery-realtime-streams.js";
export * from "./celery-realtime-token.js";
