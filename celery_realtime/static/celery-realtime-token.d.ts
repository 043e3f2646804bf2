import type { Socket } from "socket.io-client";

/**
 * Keep a socket connected while its tokens expire and are renewed. One that the page disconnects stays so.
 *
 * @param socket - A socket; create it with `autoConnect: false`, and call `socket.connect()` afterwards.
 * @param fetchToken - Returns a new token, or a promise of one. Called at each connection, and before a token expires.
 * @param options - `retry`: longest pause before the first retry, in milliseconds; 5000. It doubles with each failure
 *   up to `longestRetry`; 60000.
 * @returns A function that stops it.
 */
export function keepToken(
  socket: Socket,
  fetchToken: () => string | Promise<string>,
  options?: { retry?: number; longestRetry?: number },
): () => void;
