// What TanStack Query's cache has is the latest, whenever that comes.
import assert from "node:assert/strict";
import { test } from "node:test";

import { QueryClient, QueryObserver } from "@tanstack/query-core";
import { projectQuery } from "celery-realtime/query";

import { FakeSocket } from "./fake.mjs";

const MICROTASKS = 30;

test("what changes before the cache has taken the first answer is in it", async () => {
  for (let pause = 0; pause < MICROTASKS; pause += 1) {
    let isAnswered;
    const answered = new Promise((resolve) => { isAnswered = resolve; });
    const socket = new FakeSocket((name, { project_id }, acknowledge) => {
      acknowledge?.({ ok: true, project_id, epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [] });
      isAnswered();
    });
    socket.connect();
    const client = new QueryClient(), query = projectQuery(socket, "p", { client, throttle: 0, linger: 0 });
    const leave = new QueryObserver(client, query).subscribe(() => {});
    try {
      await answered;
      for (let turn = 0; turn < pause; turn += 1) await null;
      socket.hear("agent_status", { event: "status_change", job_id: "a", project_id: "p", status: "running", state: "STARTED", attempt: 0, epoch: "e", offset: 1 });
      await new Promise((resolve) => setTimeout(resolve, 30));
      assert.deepEqual([...client.getQueryData(query.queryKey).jobs.keys()], ["a"], `after ${pause} microtasks`);
    } finally { // what is left open keeps Node from its end
      leave();
      client.clear();
    }
  }
});
