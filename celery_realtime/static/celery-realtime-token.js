// Keep a socket of socket.io-client (v4) connected while its tokens end and are renewed.
// fetchToken() returns a new token, or a promise of one; it is asked at each connection, and before a token ends.

export function keepToken(socket, fetchToken, { retry = 5000 } = {}) {
  let timer;

  socket.auth = async (send) => {
    const token = await Promise.resolve().then(fetchToken).catch(() => null);
    send({ token });
  };

  async function refresh() {
    const mine = socket.id;
    try {
      const token = await fetchToken();
      if (socket.connected && socket.id === mine) socket.emit("refresh_token", { token }, () => {});
    } catch {
      again(refresh);
    }
  }

  function again(act) {
    clearTimeout(timer);
    timer = setTimeout(act, retry * (0.5 + Math.random() / 2));
  }

  // After a goodbye or a refusal of the server, socket.io-client does not come back by itself.
  const connect = () => socket.active || socket.connect();
  const handlers = {
    token_expiring: refresh,
    disconnect: (reason) => { if (reason === "io server disconnect") again(connect); },
    connect_error: (error) => { if (error.data?.code === "unauthorized") again(connect); },
  };
  for (const name in handlers) socket.on(name, handlers[name]);

  return () => {
    clearTimeout(timer);
    for (const name in handlers) socket.off(name, handlers[name]);
  };
}
