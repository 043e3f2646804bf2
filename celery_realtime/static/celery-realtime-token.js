// Keep a socket of socket.io-client (v4) connected while its tokens expire and are renewed.
// fetchToken() returns a new token, or a promise of one; it is called at each connection, and before a token expires.

export function keepToken(socket, fetchToken, { retry = 5000, longestRetry = 60000 } = {}) {
  let timer;
  let failures = 0;
  let connectedAt = Infinity;

  socket.auth = async (send) => {
    const token = await Promise.resolve().then(fetchToken).catch(() => null);
    send({ token });
  };

  async function refresh() {
    const { id } = socket;
    try {
      const token = await fetchToken();
      failures = 0;
      if (socket.connected && socket.id === id) socket.emit("refresh_token", { token }, () => {});
    } catch {
      again(refresh);
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

  return () => {
    clearTimeout(timer);
    for (const name in handlers) socket.off(name, handlers[name]);
  };
}
