// Make a socket of socket.io-client (v4) that shows a new token at each connection.

import { keepToken } from "./celery-realtime-token.js";

const METHODS = [
  "on", "once", "off", "onAny", "prependAny", "offAny", "onAnyOutgoing", "prependAnyOutgoing", "offAnyOutgoing",
  "removeAllListeners", "emit", "send", "connect", "open", "disconnect", "close",
];
const NEEDED = "createSocket() needs socket.io-client: npm install socket.io-client, or name it in the page's import map, or pass { io }";

export function createSocket(url, options = {}) {
  if (url && typeof url === "object" && !(url instanceof URL)) return createSocket(undefined, url);
  const { token, io = globalThis.io, autoConnect = true, ...others } = options;
  if (!["undefined", "string", "function"].includes(typeof token)) {
    throw new TypeError(`createSocket(): token has to be a string, or a function that returns one or a promise of one, not ${token}`);
  }
  const make = (connect, settings) => {
    const socket = Object.assign(connect(url === undefined ? url : String(url), { ...others, autoConnect: false }), settings);
    if (token !== undefined) keepToken(socket, async () => textOf(typeof token === "string" ? token : await token()));
    if (autoConnect) socket.connect();
    return socket;
  };
  return typeof io === "function" ? make(io) : whenLoaded(import("socket.io-client"), make);
}

// A route that answers {token} needs no unpacking.
function textOf(answer) {
  const token = answer?.token ?? answer;
  if (typeof token !== "string") throw new TypeError(`createSocket(): token() has to return a string, not ${token}`);
  return token;
}

// The socket itself as soon as there is one; until then it keeps what it is told.
function whenLoaded(loading, make) {
  const calls = [], settings = {};
  let socket = null, failure = null;
  const early = { connected: false, disconnected: true, active: false, id: undefined };
  const own = (value) => (value === socket ? proxy : value);
  const fail = ([name, [event, handler]]) => { if (/^on(ce)?$/.test(name) && event === "connect_error") handler(failure); };
  // One that was kept, or put around, before the socket was there is the socket's own from then on.
  for (const name of METHODS) early[name] = (...args) => {
    if (socket) return own(Object.getPrototypeOf(socket)[name].apply(socket, args));
    if (failure) queueMicrotask(() => fail([name, args]));
    calls.push([name, args]);
    return proxy;
  };
  const proxy = new Proxy(early, {
    get(_, name) {
      const value = (socket ?? { ...early, ...settings })[name];
      return socket && typeof value === "function" ? (...args) => own(value.apply(socket, args)) : own(value);
    },
    set: (_, name, value) => Reflect.set(socket ?? settings, name, value),
  });
  loading.then(({ io }) => {
    socket = make(io, settings);
    for (const [name, args] of calls) socket[name](...args);
  }, (cause) => {
    failure = Object.assign(new Error(NEEDED, { cause }), { data: { code: "unavailable", message: NEEDED } });
    calls.forEach(fail);
    throw failure;
  });
  return proxy;
}
