import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { io } from "socket.io-client";

import { keepToken } from "../../celery_realtime/static/celery-realtime-token.js";
import { FakeSocket } from "./fake.mjs";

const HOUR = 3600000;
const refusal = () => Object.assign(new Error("no"), { data: { code: "unauthorized", message: "no" } });

async function withTimers(act) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    await act();
  } finally {
    mock.timers.reset();
  }
}

// In steps between which promises settle.
async function pass(milliseconds) {
  for (let left = milliseconds; left > 0; left -= 500) {
    mock.timers.tick(Math.min(left, 500));
    for (let turn = 0; turn < 5; turn++) await Promise.resolve();
  }
}

// A socket whose connections a server refuses.
class RefusedSocket extends FakeSocket {
  attempts = [];

  connect() {
    this.attempts.push(Date.now());
    this.auth(() => this.fail(refusal()));
  }
}

const pausesOf = (times) => times.slice(1).map((time, index) => time - times[index]);

test("a page that is refused asks less and less often, but goes on", () => withTimers(async () => {
  const socket = new RefusedSocket();
  const stop = keepToken(socket, () => { throw new Error("logged out"); });
  socket.connect();
  await pass(HOUR);
  const pauses = pausesOf(socket.attempts);
  assert.ok(pauses[0] >= 2500 && pauses[0] <= 5500, `${pauses[0]}`);
  assert.ok(pauses.slice(4).every((pause) => pause >= 30000 && pause <= 60500), `${pauses}`);
  assert.ok(socket.attempts.length > 60 && socket.attempts.length < 130, `${socket.attempts.length}`);
  stop();
  await pass(HOUR);
  assert.equal(pausesOf(socket.attempts).length, pauses.length);
}));

test("a token that cannot be had before it expires is asked for less and less often", () => withTimers(async () => {
  const socket = new FakeSocket();
  const asked = [];
  let token = null;
  const stop = keepToken(socket, () => {
    asked.push(Date.now());
    if (token === null) throw new Error("not now");
    return token;
  }, { retry: 1000, longestRetry: 4000 });
  socket.connect();
  socket.tell("token_expiring");
  await pass(60000);
  const pauses = pausesOf(asked);
  assert.ok(pauses[0] <= 1500 && pauses.slice(2).every((pause) => pause >= 2000 && pause <= 4500), `${pauses}`);
  assert.deepEqual(socket.sent, []);
  token = "new";
  await pass(5000);
  assert.deepEqual(socket.sent, [["refresh_token", { token: "new" }]]);
  const { length } = asked;
  await pass(60000);
  assert.equal(asked.length, length);
  stop();
  assert.equal(socket.handlers, 0);
}));

test("after a connection that lasted, the first pause is short again; after a short one it is not", () =>
  withTimers(async () => {
    const socket = new FakeSocket();
    const pauses = [];
    const stop = keepToken(socket, () => "token", { retry: 1000, longestRetry: 60000 });
    const reconnect = socket.connect.bind(socket);
    let left;
    socket.connect = () => { pauses.push(Date.now() - left); reconnect(); };
    reconnect();
    for (const lasting of [0, 0, 0, 0, 61000]) {
      await pass(lasting);
      left = Date.now();
      socket.disconnect("io server disconnect");
      await pass(30000);
    }
    assert.equal(pauses.length, 5);
    assert.ok(pauses[3] >= 4000, `${pauses}`);
    assert.ok(pauses[4] <= 1500, `${pauses}`);
    stop();
  }));

test("a connection that is lost otherwise is left to socket.io-client", () => withTimers(async () => {
  const socket = new FakeSocket();
  const stop = keepToken(socket, () => "token");
  socket.connect();
  socket.disconnect();
  socket.fail(new Error("websocket error"));
  await pass(HOUR / 10);
  assert.equal(socket.connected, false);
  stop();
}));

// As one of socket.io-client: where there is no connection, closing it tells nobody.
class WaitingSocket extends FakeSocket {
  attempts = 0;

  connect() {
    this.attempts++;
    super.connect();
  }

  disconnect() {
    if (this.connected) super.disconnect("io client disconnect");
  }

  end() { super.disconnect("io server disconnect"); }
}

test("a socket that waits for its next attempt stays closed when the page closes it, until the page connects it", () =>
  withTimers(async () => {
    const socket = new WaitingSocket();
    const stop = keepToken(socket, () => "token");
    socket.connect();
    socket.end();
    socket.disconnect();
    await pass(HOUR / 10);
    assert.deepEqual([socket.attempts, socket.connected], [1, false]);
    socket.connect();
    socket.end();
    await pass(HOUR / 10);
    assert.deepEqual([socket.attempts, socket.connected], [3, true]);
    stop();
    assert.equal(socket.disconnect, WaitingSocket.prototype.disconnect);
  }));

test("so does one of socket.io-client, by either of its names", () => withTimers(async () => {
  for (const close of ["disconnect", "close"]) {
    const socket = io("http://127.0.0.1:1", { autoConnect: false });
    const stop = keepToken(socket, () => "token");
    let attempts = 0;
    socket.connect = () => { attempts++; };
    socket.emitReserved("connect_error", refusal());
    await pass(60000);
    assert.equal(attempts, 1);
    socket.emitReserved("connect_error", refusal());
    assert.equal(socket[close](), socket);
    await pass(HOUR / 10);
    assert.equal(attempts, 1);
    stop();
  }
}));

test("a page that is closed asks for no token in place of one that could not be had", () => withTimers(async () => {
  const socket = new WaitingSocket();
  let asked = 0;
  let fail;
  const stop = keepToken(socket, () => { asked++; return new Promise((_, reject) => { fail = reject; }); });
  socket.connect();
  socket.tell("token_expiring");
  socket.disconnect();
  fail(new Error("logged out"));
  await pass(HOUR / 10);
  assert.equal(asked, 1);
  stop();
}));

test("a token that comes after its connection has gone is not shown on the next one", async () => {
  const answers = [], shown = [];
  const socket = Object.assign(new FakeSocket(), { io: { engine: "first" } });
  const stop = keepToken(socket, () => new Promise((resolve) => answers.push(resolve)));
  const first = socket.auth((auth) => shown.push(auth));
  await Promise.resolve();
  socket.io.engine = "second";
  const second = socket.auth((auth) => shown.push(auth));
  await Promise.resolve();
  answers.forEach((answer, number) => answer(`token ${number}`));
  await Promise.all([first, second]);
  assert.deepEqual(shown, [{ token: "token 1" }]);
  stop();
});
