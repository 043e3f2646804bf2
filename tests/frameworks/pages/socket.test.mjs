// A socket that shows a new token at each connection; before socket.io-client is there, it keeps what it is told.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { createSocket } from "celery-realtime";
import { FakeSocket } from "./fake.mjs";

let made;
const io = (url, options) => {
  const socket = new FakeSocket();
  made.push({ url, options, socket });
  return socket;
};
const tokenOf = (socket) => new Promise((resolve) => socket.auth(resolve));

beforeEach(() => { made = []; });
afterEach(() => { delete globalThis.io; });

test("options are those of socket.io-client, and it connects when its token is in place", () => {
  const socket = createSocket("https://example.org", { io, token: "t", path: "/rt", transports: ["websocket"] });
  const [{ url, options, socket: own }] = made;
  assert.deepEqual([url, options], ["https://example.org", { path: "/rt", transports: ["websocket"], autoConnect: false }]);
  assert.deepEqual([own, own.connected], [socket, true]);
  createSocket(new URL("https://example.org/x"), { io, autoConnect: false });
  assert.deepEqual([made[1].url, made[1].socket.connected, made[1].socket.auth], ["https://example.org/x", false, undefined]);
  createSocket({ io });
  assert.equal(made[2].url, undefined);
});

test("a token is a text, or what returns one or a promise of one, at each connection", async () => {
  assert.deepEqual(await tokenOf(createSocket({ io, token: "ada:1" })), { token: "ada:1" });
  let count = 0;
  const socket = createSocket({ io, token: async () => ({ token: `ada:${++count}`, expires_in: 60 }) });
  assert.deepEqual([await tokenOf(socket), await tokenOf(socket)], [{ token: "ada:1" }, { token: "ada:2" }]);
  assert.deepEqual(await tokenOf(createSocket({ io, token: () => "ada:3" })), { token: "ada:3" });
  assert.deepEqual(await tokenOf(createSocket({ io, token: () => undefined })), { token: null });
});

test("what is no token is named", () => {
  for (const token of [null, 5, {}]) assert.throws(() => createSocket({ io, token }), /token has to be a string, or a function/);
});

test("the page's own io is taken, else the package is loaded, and what was said meanwhile is done in order", async () => {
  globalThis.io = io;
  createSocket("https://example.org");
  assert.equal(made.length, 1);
  delete globalThis.io;
  const socket = createSocket("http://127.0.0.1:1", { token: "t", reconnection: false, timeout: 5000 });
  const heard = [];
  assert.equal(socket.on("connect_error", () => heard.push("error")), socket);
  const unheard = () => heard.push("unheard");
  socket.on("connect_error", unheard).off("connect_error", unheard);
  socket.extra = 5;
  assert.deepEqual([socket.connected, socket.id, socket.io, socket.extra], [false, undefined, undefined, 5]);
  assert.equal(await socket, socket);
  const deadline = Date.now() + 60000;
  while (!heard.length && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(heard, ["error"]);
  assert.deepEqual([socket.extra, typeof socket.io.reconnection], [5, "function"]);
  assert.equal(socket.on("connect", () => {}), socket);
  assert.equal(socket.volatile, socket);
  socket.disconnect();
});

test("what is put around a method before the package is loaded is around the socket's own afterwards", async () => {
  const socket = createSocket("http://127.0.0.1:1", { token: "t", autoConnect: false });
  const { disconnect } = socket;
  let closed = 0;
  socket.disconnect = (...args) => { closed++; return disconnect(...args); };
  const deadline = Date.now() + 60000;
  while (!socket.io && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
  socket.connect();
  assert.equal(socket.active, true);
  assert.equal(socket.close(), socket);
  assert.deepEqual([closed, socket.active], [1, false]);
});
