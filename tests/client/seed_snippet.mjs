/**
 * A browser's part, played by plain socket.io-client: the token in the query string, a subscription that asks for no
 * acknowledgement, and a listener for each event. Every event is one line of JSON on stdout: {"event": ..., "data": ...}.
 *
 * node seed_snippet.mjs URL TOKEN PROJECT
 */
import { io } from "socket.io-client";

const [url, token, projectId] = process.argv.slice(2);
if (!projectId) {
  console.error("usage: node seed_snippet.mjs URL TOKEN PROJECT");
  process.exit(2);
}

const say = (event, data = null) => process.stdout.write(`${JSON.stringify({ event, data })}\n`);

const socket = io(url, { query: { token } });

// socket.io-client keeps this until it is connected, as it does in a page.
socket.emit("subscribe_project", { project_id: projectId });

for (const event of ["agent_status", "agent_progress", "error", "disconnect"]) {
  socket.on(event, (data) => say(event, data));
}
socket.on("connect", () => say("connect", { sid: socket.id }));
socket.on("connect_error", (error) => say("connect_error", { message: error.message, data: error.data ?? null }));

process.once("SIGTERM", () => {
  socket.emit("unsubscribe_project", { project_id: projectId });
  socket.disconnect();
});
