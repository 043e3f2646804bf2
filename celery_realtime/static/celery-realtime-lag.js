// Tell a server that collects metrics how late its events come to this page, by the server's clock.

const MAX_LAGS = 10;
const LONGEST_TRIP = 5000;
const NAMES = ["agent_status", "agent_progress"];

const reporting = new WeakSet(); // sockets

export function reportLag(socket, every) {
  if (reporting.has(socket) || !(every > 0)) return;
  reporting.add(socket);
  const lags = [];
  let ahead; // the server's clock, in milliseconds
  let sentAt;

  function send() {
    if (!socket.connected) return;
    const start = (sentAt = Date.now());
    socket.emit("report_lag", { lags: lags.splice(0) }, (answer) => {
      const now = Date.now();
      if (Number.isFinite(answer?.time) && now - start < LONGEST_TRIP) ahead = answer.time - (start + now) / 2;
    });
  }

  function note({ event, data }) {
    if (!NAMES.includes(event) || data?.replayed) return;
    const lag = Math.round(Date.now() + ahead - Date.parse(data?.timestamp));
    if (Number.isInteger(lag) && lags.length < MAX_LAGS) lags.push(lag);
  }

  socket.onAny((event, data) => {
    const isDue = !(Date.now() - sentAt < every * 1000);
    if (ahead === undefined) return isDue && send();
    for (const item of event === "agent_batch" && Array.isArray(data) ? data : [{ event, data }]) note(item ?? {});
    if (lags.length && isDue) send();
  });
  send();
}
