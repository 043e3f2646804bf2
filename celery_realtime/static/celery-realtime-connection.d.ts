// What is needed of a socket of socket.io-client (v4).
interface Watched {
  readonly connected: boolean;
  readonly active: boolean;
  readonly io: { readonly engine: { close(): unknown } };
  connect(): unknown;
  disconnect(): unknown;
  emit(event: string, ...args: any[]): unknown;
  on(event: string, listener: (...args: any[]) => void): unknown;
  off(event: string, listener: (...args: any[]) => void): unknown;
}

export interface ConnectionOptions {
  /** Milliseconds after which a page that is hidden disconnects, until it is seen again; null (default): never. */
  restAfter?: number | null;
  /** Milliseconds in which a server has to say something after the page has woken up; 5000. */
  probeTimeout?: number;
  /** Milliseconds that a page has to have been hidden for its connection to be tried when it is seen again; 5000. */
  hiddenFor?: number;
}

/**
 * Try the connection of a socket when the page wakes up, comes back from the browser's cache or is online again, and
 * replace one that is dead.
 *
 * @returns ends it
 */
export function watchConnection(socket: Watched, options?: ConnectionOptions): () => void;
