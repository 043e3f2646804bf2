// The elements where there is no page, and what they say in which language.
import assert from "node:assert/strict";
import { test } from "node:test";

import { texts } from "../../celery_realtime/static/celery-realtime-element.js";
import { wordsFor } from "../../celery_realtime/static/celery-realtime-texts.js";

const elementIn = (lang, own) => ({ texts: own, closest: () => ({ lang }), getRootNode: () => ({}) });
const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();

test("a server that renders pages may import it", () => {
  assert.equal(globalThis.customElements, undefined);
  assert.deepEqual(Object.keys(texts), ["en", "de"]);
});

test("each language has each text, with the same values", () => {
  const valuesOf = (text) => [...JSON.stringify(text).matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();
  assert.deepEqual(Object.keys(texts.de), Object.keys(texts.en));
  for (const key in texts.en) assert.deepEqual(valuesOf(texts.de[key]), valuesOf(texts.en[key]), key);
});

test("plurals, numbers and own texts", () => {
  const en = wordsFor(elementIn("en")), de = wordsFor(elementIn("de-CH")), own = wordsFor(elementIn("en", { done: "{n} ok" }));
  assert.equal(en.say("done", { n: 1 }), "1 job done");
  assert.equal(en.say("done", { n: 5000 }), "5,000 jobs done");
  assert.equal(de.say("failed", { n: 2 }), "2 Aufträge gescheitert");
  assert.equal(own.say("done", { n: 1 }), "1 ok");
  assert.equal(wordsFor(elementIn("no language!")).say("stop"), "Stop");
  texts.fr = { stop: "Arrêter" };
  assert.equal(wordsFor(elementIn("fr-FR")).say("stop"), "Arrêter");
  assert.equal(wordsFor(elementIn("fr-FR")).say("log"), "Log");
  delete texts.fr;
});

test("what is said of a job's times", () => {
  const words = wordsFor(elementIn("en"));
  assert.equal(words.time({ status: "success", runtime: 4.23 }), "ran 4.2 s");
  assert.equal(words.time({ status: "running", started_at: ago(185) }), "3 min");
  assert.equal(words.time({ status: "running", started_at: ago(-60) }), "0 s"); // of a clock that is ahead
  assert.equal(words.time({ status: "error", state: "LOST" }), "");
  assert.equal(words.duration(7500), "2 h 5 min");
  const soon = ago(-190), eta = new Date(Math.min(Date.now() + 90_000, new Date().setHours(23, 59, 59)));
  assert.equal(words.message({ status: "queued", state: "PENDING", expires_at: soon }), "Waiting for a worker, expires in 3 min");
  assert.match(words.attempt({ attempt: 2, max_retries: 5, state: "RETRY", eta: eta.toISOString() }), /^retry 2 of 5 at \d\d:\d\d/);
  assert.equal(words.attempt({ attempt: 2, max_retries: 5, state: "STARTED", eta: eta.toISOString() }), "retry 2 of 5");
  assert.equal(words.attempt({ attempt: 0 }), "");
  assert.equal(words.status({ status: "error", state: "REVOKED" }), "stopped");
  assert.equal(words.status({ status: "running", state: "constructor" }), "running");
  assert.equal(words.name({ task: "studio.transcribe" }), "transcribe");
  assert.equal(words.name({ task: null }), "Job");
});
