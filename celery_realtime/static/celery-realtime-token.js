// Keep a socket of socket.io-client (v4) connected while its tokens expire and are renewed.
// fetchToken() returns a new token, or a promise of one; it is called at each connection, and before a token expires.

export function keepToken(socket, fetchToken, { retry = 5000, longestRetry = 60000 } = {}) {
  let timer;
  let failures = 0;
  let connectedAt = Infinity;

  // A token that comes when its connection has gone is of no use to the next one, which asks for another.
  socket.auth = async (send) => {
    const engine = socket.io?.engine;
    const token = await Promise.resolve().then(fetchToken).catch(() => null);
    if (socket.io?.engine === engine) send({ token });
  };

  async function refresh() {
    const { id } = socket;
    const isSame = () => socket.connected && socket.id === id;
    try {
      const token = await fetchToken();
      failures = 0;
      if (isSame()) socket.emit("refresh_token", { token }, () => {});
    } catch {
      if (isSame()) again(refresh); // the next connection asks by itself
    }
  }

  // Pauses double, so that a page whose user has logged out does not ask every few seconds for ever.
  function again(act) {
    clearTimeout(timer);
    const pause = Math.min(retry * 2 ** failures++, longestRetry);
    timer = setTimeout(act, pause * (0.5 + Math.random() / 2));
  }

  // socket.io-client does not reconnect by itself after the server has disconnected or refused it.
  const connect = () => socket.active || socket.connect();
  const handlers = {
    token_expiring: refresh,
    connect: () => { connectedAt = Date.now(); },
    disconnect: (reason) => {
      if (Date.now() - connectedAt > longestRetry) failures = 0; // a shorter connection may be one of many failures
      if (reason === "io server disconnect") again(connect);
    },
    connect_error: (error) => { if (error.data?.code === "unauthorized") again(connect); },
  };
  for (const name in handlers) socket.on(name, handlers[name]);

  // What the page closes stays closed. A socket that waits for its next attempt tells nobody that it was closed.
  const { disconnect } = socket;
  const closed = (socket.disconnect = (...args) => {
    clearTimeout(timer);
    return disconnect.apply(socket, args);
  });

  return () => {
    clearTimeout(timer);
    if (socket.disconnect === closed) socket.disconnect = disconnect;
    for (const name in handlers) socket.off(name, handlers[name]);
  };
}
