import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { reportLag } from "../../celery_realtime/static/celery-realtime-lag.js";
import { subscribeProject } from "../../celery_realtime/static/celery-realtime.js";
import { FakeSocket } from "./fake.mjs";

const AHEAD = 60000;

// A socket of a server whose clock is ahead, and which answers at once.
class Socket extends FakeSocket {
  reports = [];

  constructor(answer = () => ({ ok: true, time: Date.now() + AHEAD })) {
    super((name, data, acknowledge) => {
      if (name !== "report_lag") return;
      this.reports.push(data.lags);
      acknowledge(answer());
    });
    this.connect();
  }

  say(late, event = "agent_status", more = {}) {
    const timestamp = new Date(Date.now() + AHEAD - late).toISOString();
    this.hear(event, { project_id: "p", job_id: "j", timestamp, ...more });
  }
}

function withTimers(act) {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: Date.parse("2024-01-15T10:30:00Z") });
  try {
    return act();
  } finally {
    mock.timers.reset();
  }
}

test("lags are reported by the server's clock, some of them, once in an interval", () => withTimers(() => {
  const socket = new Socket();
  reportLag(socket, 10);
  for (let late = 100; late < 130; late++) socket.say(late);
  assert.deepEqual(socket.reports, [[]]);
  mock.timers.tick(10000);
  socket.say(7);
  assert.deepEqual(socket.reports, [[], [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]]);
  mock.timers.tick(10000);
  socket.say(5);
  assert.deepEqual(socket.reports[2], [5]);
}));

test("a socket reports once, however many ask for it", () => withTimers(() => {
  const socket = new Socket();
  reportLag(socket, 10);
  reportLag(socket, 10);
  assert.equal(socket.reports.length, 1);
}));

test("batches are measured; what is replayed, custom or malformed is not", () => withTimers(() => {
  const socket = new Socket();
  reportLag(socket, 10);
  mock.timers.tick(10000);
  socket.say(5, "line");
  socket.say(5, "agent_status", { replayed: true });
  socket.say(5, "agent_progress", { timestamp: "soon" });
  for (const data of [null, 5, "text", [null], [5], {}]) {
    socket.hear("agent_status", data);
    socket.hear("agent_batch", data);
  }
  assert.deepEqual(socket.reports, [[]]);
  const timestamp = new Date(Date.now() + AHEAD - 20).toISOString();
  socket.hear("agent_batch", [null, { event: "agent_status", data: { timestamp } }]);
  assert.deepEqual(socket.reports, [[], [20]]);
}));

test("nothing is sent without a connection, and nothing measured without the server's clock", () => withTimers(() => {
  const socket = new Socket(() => ({ ok: true, time: "noon" }));
  reportLag(socket, 10);
  mock.timers.tick(20000);
  socket.say(5);
  assert.deepEqual(socket.reports, [[], []]);
  const closed = new Socket();
  closed.connected = false;
  reportLag(closed, 10);
  assert.deepEqual(closed.reports, []);
}));

test("a subscription reports where the server asks for it, and not elsewhere", async () => {
  for (const [every, number] of [[10, 1], [undefined, 0], [-1, 0], ["often", 0]]) {
    const asked = [];
    const socket = new FakeSocket((name, _, acknowledge) => {
      asked.push(name);
      if (name === "subscribe_project") acknowledge({ ok: true, epoch: null, offset: null, events: [], jobs: [], report_lag: every });
    });
    const project = subscribeProject(socket, "p");
    socket.connect();
    for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
    assert.equal(asked.filter((name) => name === "report_lag").length, number);
    project.close();
  }
});

test("a clock that no answer has told is asked for again, with an event, once in an interval", () => withTimers(() => {
  const answers = [{ ok: false }];
  const socket = new Socket(() => answers.shift() ?? { ok: true, time: Date.now() + AHEAD });
  socket.disconnect();
  reportLag(socket, 10);
  assert.deepEqual(socket.reports, []);
  socket.connect();
  socket.say(5);
  mock.timers.tick(9000);
  socket.say(5);
  assert.deepEqual(socket.reports, [[]]); // which was refused
  mock.timers.tick(1000);
  socket.say(5);
  mock.timers.tick(10000);
  socket.say(7);
  assert.deepEqual(socket.reports, [[], [], [7]]);
}));
