// Notice at once when a socket of socket.io-client (v4) is dead, and let it rest while nobody looks at the page.

// A timer that comes so much later than it should (ms) says that the device has slept, or the page was frozen.
const JUMP = 5000;
const TICK = 1000;

export function watchConnection(socket, { restAfter = null, probeTimeout = 5000, hiddenFor = 5000 } = {}) {
  const page = globalThis.document;
  let heardAt = 0, hiddenAt = null, isResting = false, isProbing = false, tickedAt = Date.now();
  let engine, probe, rest, disconnect;

  const heard = () => { heardAt = Date.now(); };
  const listen = () => {
    if (socket.io.engine === engine) return;
    engine?.off("packet", heard);
    engine = socket.io.engine;
    engine?.on("packet", heard);
  };

  // Whatever the server sends says that the connection lives. A connection that has died while the device slept stays
  // open for the browser until the next ping of the server is overdue: up to 45 seconds, by default.
  function check() {
    if (isResting || isProbing || !socket.connected) return;
    listen();
    isProbing = true;
    const askedAt = Date.now(), of = engine;
    socket.emit("unsubscribe_job", { job_id: "-" }, () => {});
    probe = setTimeout(() => {
      isProbing = false;
      if (heardAt < askedAt && socket.connected && socket.io.engine === of) of.close(); // it is made anew
    }, probeTimeout);
  }

  // What waits for its next attempt is tried now. A socket that is not to be connected stays as it is.
  function connectNow() {
    if (socket.connected || !socket.active || isResting) return;
    socket.disconnect();
    socket.connect();
  }

  function wake() {
    if (isResting) {
      rise();
      socket.connect();
    } else if (socket.connected) check();
    else connectNow();
  }

  function see() {
    clearTimeout(rest);
    if (page.visibilityState === "hidden") {
      hiddenAt = Date.now();
      if (restAfter !== null) rest = setTimeout(sleep, restAfter);
      return;
    }
    const wasHiddenFor = hiddenAt === null ? 0 : Date.now() - hiddenAt;
    hiddenAt = null;
    if (isResting || wasHiddenFor >= hiddenFor) wake();
  }

  // A socket without a connection tells nobody that the page closes it, or connects it, in the meantime.
  function sleep() {
    if (!socket.active) return;
    socket.disconnect();
    isResting = true;
    disconnect = socket.disconnect;
    socket.disconnect = (...args) => {
      rise();
      return disconnect.apply(socket, args);
    };
    socket.on("connect", rise);
  }

  function rise() {
    if (!isResting) return;
    isResting = false;
    socket.disconnect = disconnect;
    socket.off("connect", rise);
  }

  // Browsers slow down the timers of hidden pages by themselves.
  const timer = setInterval(() => {
    const late = Date.now() - tickedAt - TICK;
    tickedAt = Date.now();
    if (late > JUMP && page?.visibilityState !== "hidden") wake();
  }, TICK);

  const shown = ({ persisted }) => { if (persisted) wake(); };
  const on = (does) => {
    page?.[`${does}EventListener`]("visibilitychange", see);
    page?.[`${does}EventListener`]("resume", wake); // of a frozen page
    globalThis[`${does}EventListener`]?.("pageshow", shown);
    globalThis[`${does}EventListener`]?.("online", wake);
  };
  on("add");
  socket.on("connect", listen);
  if (page?.visibilityState === "hidden") see();

  return () => {
    on("remove");
    socket.off("connect", listen);
    engine?.off("packet", heard);
    clearInterval(timer);
    clearTimeout(probe);
    clearTimeout(rest);
    if (isResting) wake();
  };
}
