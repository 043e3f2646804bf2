import type { ManagerOptions, Socket, SocketOptions } from "socket.io-client";

type Token = string | { readonly token: string };

export interface CreateSocketOptions extends Partial<ManagerOptions & SocketOptions> {
  /** A token, or better what returns a new one or a promise of one: called at each connection, and before a token expires. */
  token?: string | (() => Token | Promise<Token>);
  /** That of socket.io-client; by default the page's `io`, else the installed package, which is loaded then. */
  io?: (url?: string, options?: any) => Socket;
}

/**
 * Make a socket of socket.io-client that shows a new token at each connection, and comes back when one has expired.
 *
 * If socket.io-client has to be loaded first, what the socket is told meanwhile is done afterwards, in order.
 *
 * @param url - The server; by default, that of the page.
 * @param options - Those of socket.io-client, and `token` and `io`.
 */
export function createSocket(url?: string | URL, options?: CreateSocketOptions): Socket;
export function createSocket(options: CreateSocketOptions): Socket;
