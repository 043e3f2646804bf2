// What is needed of a socket of socket.io-client (v4).
interface Real {
  readonly connected: boolean;
  readonly id?: string;
  connect(): unknown;
  disconnect(): unknown;
  emit(event: string, ...args: any[]): unknown;
  on(event: string, listener: (...args: any[]) => void): unknown;
  onAny(listener: (event: string, ...args: any[]) => void): unknown;
}

/** As much of a socket of socket.io-client as the modules of this package use; what it emits without a connection is dropped. */
export interface SharedSocket {
  readonly connected: boolean;
  readonly id: string | undefined;
  /** Whether it has not been closed. */
  readonly active: boolean;
  connect(): this;
  /** Close it for good, for this tab: another connection takes another `shareSocket()`. */
  disconnect(): this;
  close(): this;
  emit(event: string, ...args: any[]): this;
  on(event: string, listener: (...args: any[]) => void): this;
  off(event: string, listener: (...args: any[]) => void): this;
  onAny(listener: (event: string, ...args: any[]) => void): this;
  offAny(listener: (event: string, ...args: any[]) => void): this;
}

export interface SharedSocketOptions {
  /** Tabs of one origin that use one name share one socket: a name for each user and server. "celery-realtime". */
  name?: string;
}

/**
 * Share one connection among all tabs of a browser.
 *
 * @param open makes and returns a socket of socket.io-client; called in the tab that has the connection, and in another
 *   one when that tab is gone. Where the browser has no locks, as on http:// other than localhost, each tab calls it.
 */
export function shareSocket<S extends Real>(open: () => S, options?: SharedSocketOptions): SharedSocket | S;
