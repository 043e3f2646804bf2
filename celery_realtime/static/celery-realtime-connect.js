// Connections that elements on a page share: one for those with the same attributes, as long as one of them is there.

import { keepToken } from "./celery-realtime-token.js";

const LINGER = 1000; // milliseconds until an unused one is closed: pages are drawn anew, and elements moved
const lines = [];

// `place`: src, path, token, token-url and client of an element, each null if it has none.
export function connect(place, user) {
  let line = lines.find((one) => one.place.every((value, index) => value === place[index]));
  if (!line) lines.push((line = new Line(place)));
  line.users.add(user);
  return line;
}

class Line {
  users = new Set();
  socket = null;
  error = null;

  constructor(place) {
    this.place = place;
    this._open(...place).catch((error) => {
      this.error = error;
      console.error("celery-realtime:", error);
    }).finally(() => this.users.forEach((user) => user._later()));
  }

  async _open(src, path, token, tokenUrl, client) {
    const io = await clientOf(client);
    if (this._isClosed) return;
    const options = { autoConnect: false, transports: ["websocket", "polling"], tryAllTransports: true };
    if (path) options.path = path;
    if (typeof token === "string") options.auth = { token };
    const socket = io(src || undefined, options);
    const fetchToken = typeof token === "function" ? token : tokenUrl != null && (() => tokenFrom(tokenUrl));
    if (fetchToken) this._stop = keepToken(socket, fetchToken);
    this.socket = socket.connect();
  }

  leave(user) {
    this.users.delete(user);
    clearTimeout(this._leaving);
    this._leaving = setTimeout(() => this.users.size || this._close(), LINGER);
  }

  _close() {
    lines.splice(lines.indexOf(this), 1);
    this._isClosed = true;
    this._stop?.();
    this.socket?.disconnect();
  }
}

// socket.io-client: of a URL, of a script of the page, or of the page's import map or bundler.
async function clientOf(url) {
  if (!url && globalThis.io) return globalThis.io;
  const module = await (url ? import(/* @vite-ignore */ /* webpackIgnore: true */ new URL(url, document.baseURI).href) : import("socket.io-client"));
  const io = module.io ?? module.default ?? globalThis.io;
  if (typeof io !== "function") throw new TypeError(`${url} is no socket.io-client: it has no "io"`);
  return io;
}

async function tokenFrom(url) {
  const response = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return (await response.json()).token;
}
