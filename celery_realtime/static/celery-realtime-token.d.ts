import type { Socket } from "socket.io-client";

/**
 * Keep a socket connected while its tokens end and are renewed.
 *
 * @param socket - A socket; make it with `autoConnect: false`, and call `socket.connect()` afterwards.
 * @param fetchToken - Returns a new token, or a promise of one. Asked at each connection, and before a token ends.
 * @param options - `retry`: longest pause, in milliseconds, before another try.
 * @returns Stops it.
 */
export function keepToken(
  socket: Socket,
  fetchToken: () => string | Promise<string>,
  options?: { retry?: number },
): () => void;
