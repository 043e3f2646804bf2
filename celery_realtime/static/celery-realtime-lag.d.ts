import type { Socket } from "socket.io-client";

/**
 * Tell a server that collects metrics how late its events come to this page. `subscribeProject` does so by itself where
 * a server asks for it.
 * @param socket The socket.
 * @param every Seconds between two reports.
 */
export function reportLag(socket: Socket, every: number): void;
