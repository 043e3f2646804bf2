// What the pages of all frameworks have: a socket, and notes of what it sends and of which rows are rendered.
import { createSocket } from "celery-realtime";

const query = new URLSearchParams(location.search);
export const project = query.get("project");
export const other = query.get("other");
export const socket = createSocket(location.origin, { token: async () => query.get("token") });

window.sent = [];
window.renders = {};
// But for whether something was missed, which subscriptions ask when they have heard nothing for a while.
socket.onAnyOutgoing((event, data) => data.since || window.sent.push([event, data.job_id ?? data.project_id]));

export function note(id) {
  window.renders[id] = (window.renders[id] ?? 0) + 1;
  return "";
}
