/**
 * A page that follows one job and what it says, with celery-realtime-streams.js on socket.io-client, and prints each
 * callback as a line of JSON. SIGUSR2 breaks the connection, SIGHUP makes it print all that it has, SIGTERM ends it.
 *
 * Of the options, `churn` is how many subscriptions are made and closed at once before the one that stays, half of them
 * when the server has been asked; `twin` is whether there is another one at first, which is closed after a chunk. The
 * others are options of subscribeJob.
 *
 * node follow_job.mjs URL TOKEN JOB [OPTIONS AS JSON]
 */
import { io } from "socket.io-client";

import { subscribeJob } from "../../celery_realtime/static/celery-realtime-streams.js";

const [url, token, jobId, given = "{}"] = process.argv.slice(2);
const { churn = 0, twin = false, ...options } = JSON.parse(given);
const say = (event, data = null) => process.stdout.write(`${JSON.stringify({ event, data })}\n`);

const socket = io(url, {
  auth: { token },
  transports: ["websocket"],
  reconnectionDelay: 50,
  reconnectionDelayMax: 500,
});
let state = "";
let job;

function follow() {
  if (twin) {
    const other = subscribeJob(socket, jobId, {
      ...options,
      onChunk: ({ name }, chunk) => {
        say("twin", { stream: name, chunk });
        if (chunk.length) other.close();
      },
    });
  }
  job = subscribeJob(socket, jobId, {
    ...options,
    onChunk: ({ name, position }, chunk) => say("chunk", { stream: name, chunk, position }),
    onStatus: (data) => say("agent_status", data),
    onChange: (one) => {
      if (one.state !== state) say("state", { state: (state = one.state), error: one.error?.code ?? null });
    },
  });
}

async function begin() {
  for (let number = 0; number < churn; number++) {
    const one = subscribeJob(socket, jobId, { ...options, onChunk: () => say("closed", number) });
    if (number % 2) await new Promise((resolve) => setTimeout(resolve, number));
    one.close();
  }
  follow();
}

socket.once("connect", begin);
process.on("SIGUSR2", () => socket.io.engine.close());
process.on("SIGHUP", () => say("streams", [...job.streams.values()]));
process.once("SIGTERM", () => {
  job.close();
  setTimeout(() => socket.disconnect(), 100); // once the server has been asked to let it leave
});
