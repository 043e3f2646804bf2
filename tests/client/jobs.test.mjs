// The example's reducer: whatever the order in which events arrive, a row ends as its job did.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

// A browser knows the file for a module by its <script>; Node would need a package.json beside it.
const source = await readFile(new URL("../../example_project/static/jobs.js", import.meta.url));
const { withProgress, withSnapshot, withStatus } = await import(
  `data:text/javascript;base64,${source.toString("base64")}`
);

const event = (offset, fields) => ({
  job_id: "job",
  project_id: "project",
  task: "task",
  timestamp: new Date(1.7e12 + offset * 1000).toISOString(),
  epoch: "epoch",
  offset,
  ...fields,
});
const status = (offset, word, state, attempt) => event(offset, { status: word, state, attempt });
const progress = (offset, percent, attempt) => event(offset, { progress: percent, message: `at ${percent}`, attempt });
const reduce = (job, next) => ("status" in next ? withStatus : withProgress)(job, next);

const LIFE = [
  status(1, "queued", "PENDING", 0),
  status(2, "running", "STARTED", 0),
  progress(3, 40, 0),
  status(4, "queued", "RETRY", 1),
  status(5, "running", "STARTED", 1),
  progress(6, 20, 1),
  status(7, "success", "SUCCESS", 1),
];

function* orders(items) {
  if (items.length < 2) yield items;
  else
    for (const [index, first] of items.entries())
      for (const rest of orders(items.toSpliced ? items.toSpliced(index, 1) : items.filter((_, i) => i !== index)))
        yield [first, ...rest];
}

test("a whole life ends in success, in whatever order it arrives", () => {
  for (const order of orders(LIFE)) {
    const job = order.reduce(reduce, undefined);
    assert.equal(job.status, "success");
    assert.equal(job.attempt, 1);
  }
});

test("a part of a life ends at its last event, in whatever order it arrives", () => {
  for (let length = 1; length < LIFE.length; length++) {
    const last = LIFE[length - 1];
    for (const order of orders(LIFE.slice(0, length))) {
      const job = order.reduce(reduce, undefined);
      assert.equal(job.status, last.status ?? "running", JSON.stringify(order.map((one) => one.offset)));
      if (last.progress !== undefined) assert.equal(job.progress, last.progress);
    }
  }
});

test("a lost job is reopened by a later run, and not closed again by a duplicate", () => {
  const lost = status(8, "error", "LOST", 0);
  const closed = [...LIFE.slice(0, 3), lost].reduce(reduce, undefined);
  assert.equal(closed.state, "LOST");
  assert.equal(reduce(closed, LIFE[1]), closed);
  const reopened = reduce(closed, status(9, "running", "STARTED", 0));
  assert.equal(reopened.status, "running");
  assert.equal(reduce(reopened, lost), reopened);
  const ended = reduce(reopened, status(11, "success", "SUCCESS", 0));
  assert.equal(reduce(ended, status(12, "error", "LOST", 0)), ended);
});

test("the first end of an attempt stays", () => {
  const ended = reduce(undefined, status(3, "error", "REVOKED", 0));
  assert.equal(reduce(ended, status(4, "success", "SUCCESS", 0)), ended);
  assert.equal(reduce(ended, progress(5, 3, 0)), ended);
});

test("a snapshot brings what is newer and takes nothing away", () => {
  const running = { ...LIFE[1], progress: 30, message: "x", current: null, total: null };
  const job = withSnapshot(undefined, running);
  assert.equal(job.progress, 30);
  const further = reduce(job, progress(6, 35, 0));
  assert.equal(withSnapshot(further, running).progress, 35);
  assert.equal(withSnapshot(further, { ...running, progress: 60 }).progress, 60);
  assert.equal(withSnapshot(further, { ...LIFE[0], progress: null, message: null }), further);
});
