// A socket of socket.io-client that rests while its page is hidden. There is no server: what it wants is what counts.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { io } from "socket.io-client";

import { watchConnection } from "../../celery_realtime/static/celery-realtime-connection.js";

let socket;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  socket = io("http://127.0.0.1:1", { forceNew: true, reconnection: false });
});

afterEach(() => {
  socket.disconnect();
  delete globalThis.document;
  mock.timers.reset();
});

function show(state) {
  document.visibilityState = state;
  document.dispatchEvent(new Event("visibilitychange"));
  mock.timers.tick(1000);
}

test("it wants a connection again when the page is seen", () => {
  const { disconnect } = socket;
  const stop = watchConnection(socket, { restAfter: 50 });
  for (let times = 0; times < 2; times++) {
    show("hidden");
    assert.equal(socket.active, false);
    show("visible");
    assert.equal(socket.active, true);
  }
  show("hidden");
  stop();
  assert.equal(socket.active, true);
  assert.equal(socket.disconnect, disconnect);
});

test("one that the page has closed meanwhile stays closed", () => {
  for (const close of ["disconnect", "close"]) {
    socket.connect();
    const stop = watchConnection(socket, { restAfter: 50 });
    show("hidden");
    assert.equal(socket[close](), socket);
    show("visible");
    assert.equal(socket.active, false);
    stop();
    assert.equal(socket.active, false);
  }
});

test("one that the page has connected meanwhile is watched as before", () => {
  const stop = watchConnection(socket, { restAfter: 50 });
  show("hidden");
  socket.connect();
  socket.emitReserved("connect");
  show("hidden");
  assert.equal(socket.active, false);
  show("visible");
  assert.equal(socket.active, true);
  stop();
});
