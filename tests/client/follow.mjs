/**
 * A page that uses celery-realtime.js on socket.io-client: it follows a project and prints each callback as a line of
 * JSON. SIGUSR2 breaks the connection, SIGHUP makes it print the jobs, SIGTERM ends it. CELERY_REALTIME_JS is the path of
 * the script, if it is another one.
 *
 * node follow.mjs URL TOKEN PROJECT [OPTIONS AS JSON]
 */
import { io } from "socket.io-client";

const script = process.env.CELERY_REALTIME_JS ?? "../../celery_realtime/static/celery-realtime.js";
const { subscribeProject } = await import(script);
const [url, token, projectId, options = "{}"] = process.argv.slice(2);
const say = (event, data = null) => process.stdout.write(`${JSON.stringify({ event, data })}\n`);

const socket = io(url, {
  auth: { token },
  transports: ["websocket"],
  reconnectionDelay: 50,
  reconnectionDelayMax: 500,
});
let state = "";
const project = subscribeProject(socket, projectId, {
  batch: false, // so that a server has many packets for one that does not read
  ...JSON.parse(options),
  onStatus: (data) => say("agent_status", data),
  onProgress: (data) => say("agent_progress", data),
  onWorkflow: (data) => say("agent_workflow", data),
  onEvent: (event, data, one) => say(event, data?._realtime ? data : { data, epoch: one.epoch, offset: one.offset }),
  onChange: (one, change) => {
    if (change.reason === "snapshot" && !change.recovered) say("snapshot", { epoch: one.epoch, offset: one.offset });
    if (one.state !== state) say("state", { state: (state = one.state), error: one.error?.code ?? null });
  },
});

process.on("SIGUSR2", () => socket.io.engine.close());
process.on("SIGHUP", () => say("jobs", [...project.jobs.values()]));
process.once("SIGTERM", () => {
  project.close();
  setTimeout(() => socket.disconnect(), 100); // once the server has been asked to let it leave
});
