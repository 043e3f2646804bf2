/**
 * A page that uses celery-realtime-token.js on socket.io-client: it stays connected with the tokens that it is given,
 * one after the other; null stands for a failure to get one. It prints what happens, a line of JSON each.
 *
 * node token.mjs URL TOKENS-AS-JSON PROJECT
 */
import { io } from "socket.io-client";

import { keepToken } from "../../celery_realtime/static/celery-realtime-token.js";
import { subscribeProject } from "../../celery_realtime/static/celery-realtime.js";

const [url, tokens, projectId] = process.argv.slice(2);
const say = (event, data = null) => process.stdout.write(`${JSON.stringify({ event, data })}\n`);
const left = JSON.parse(tokens);

const socket = io(url, { autoConnect: false, transports: ["websocket"], reconnectionDelay: 50 });
const stop = keepToken(socket, async () => {
  const token = left.length > 1 ? left.shift() : left[0];
  say("fetched", token !== null);
  if (token === null) throw new Error("no token now");
  return token;
}, { retry: 200 });
socket.on("connect", () => say("connect"));
socket.on("disconnect", (reason) => say("disconnect", reason));
socket.on("connect_error", (error) => say("connect_error", error.data ?? error.message));
const project = subscribeProject(socket, projectId, {
  onEvent: (event, data) => say(event, data),
  onChange: ({ state }, { reason }) => { if (reason === "state") say("state", state); },
});
socket.connect();

process.once("SIGTERM", () => {
  stop();
  project.close();
  socket.disconnect();
});
