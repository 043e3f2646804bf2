// Elements in the output of a notebook. What they take for a socket goes through the kernel, as messages of the widget.

const SILENCE = 16000, HELLO = 4000; // milliseconds: without a sign of the kernel, and between two attempts
const ELEMENTS = "celery-realtime: elements"; // of the page: { urls, ready }

// One copy for all widgets of a page, whose elements can be defined once.
const loadElements = () => (globalThis[Symbol.for(ELEMENTS)] ??= load()).ready;

// A blob has no place that an import could be relative to. What a module imports later may import that module itself.
function load() {
  const urls = {}, later = (name) => `import(globalThis[Symbol.for(${JSON.stringify(ELEMENTS)})].urls[${JSON.stringify(name)}])`;
  for (const [name, text] of MODULES) {
    const linked = text
      .replace(/\bimport\("\.\/([\w-]+)\.js"\)/g, (_, imported) => later(imported))
      .replace(/ from "\.\/([\w-]+)\.js"/g, (_, imported) => ` from ${JSON.stringify(urls[imported])}`);
    urls[name] = URL.createObjectURL(new Blob([linked], { type: "text/javascript" }));
  }
  return { urls, ready: import(/* @vite-ignore */ urls["celery-realtime-element"]) };
}

// What the elements need of a socket of socket.io-client.
class Line {
  connected = false;
  id = null;
  _listeners = new Map(); // name -> functions; null for those of any event
  _asked = new Map(); // number -> function
  _session = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  _connections = 0;
  _numbers = 0;
  _heardAt = 0;

  constructor(model) {
    this._model = model;
    model.on("msg:custom", this._take);
    this._timer = setInterval(this._look, 1000);
    this._hello();
  }

  close() {
    clearInterval(this._timer);
    this._model.off("msg:custom", this._take);
    this._connect(false);
  }

  on(name, listener) {
    if (!this._listeners.has(name)) this._listeners.set(name, new Set());
    this._listeners.get(name).add(listener);
    return this;
  }

  off(name, listener) {
    this._listeners.get(name)?.delete(listener);
    return this;
  }

  onAny(listener) { return this.on(null, listener); }
  offAny(listener) { return this.off(null, listener); }

  emit(event, data, answered) {
    const number = ++this._numbers;
    if (answered) this._asked.set(number, answered);
    this._model.send({ kind: "ask", session: this._session, number, event, data });
    return this;
  }

  _hello() {
    this._greetedAt = Date.now();
    this._model.send({ kind: "hello", session: this._session });
  }

  _look = () => {
    const now = Date.now();
    if (now - this._heardAt < SILENCE) return;
    this._connect(false); // a kernel that is gone, or stopped
    if (now - this._greetedAt > HELLO) this._hello();
  };

  _take = (message) => {
    if (message?.kind !== "said") return;
    const isBack = Date.now() - this._heardAt > SILENCE && this._heardAt;
    this._heardAt = Date.now();
    for (const [kind, session, ...item] of message.items) {
      if (session !== null && session !== this._session) continue;
      if (kind === "event") this._tell(null, ...item);
      else if (kind === "answer") this._answer(...item);
      else if (kind === "line") this._line(...item);
    }
    if (isBack && !this.connected) this._hello();
  };

  _answer(number, data) {
    const answered = this._asked.get(number);
    this._asked.delete(number);
    answered?.(data);
  }

  _line(isConnected, error) {
    if (isConnected && this.connected) this._connect(false); // the kernel has another connection, or has forgotten this one
    this._connect(isConnected);
    if (error) this._tell("connect_error", Object.assign(new Error(error.message), { data: error }));
  }

  _connect(isConnected) {
    if (isConnected === this.connected) return;
    this.connected = isConnected;
    this._asked.clear();
    this.id = isConnected ? `${this._session} ${++this._connections}` : null;
    this._tell(isConnected ? "connect" : "disconnect");
  }

  _tell(name, ...data) {
    for (const listener of [...(this._listeners.get(name) ?? [])]) listener(...data);
  }
}

// What the notebook around it says, where the user does not.
function themeOf(page) {
  const { dataset, classList } = page.body;
  if (dataset.jpThemeLight) return dataset.jpThemeLight === "false" ? "dark" : "light";
  if (classList.contains("vscode-dark") || classList.contains("dark")) return "dark";
  return classList.contains("vscode-light") ? "light" : null;
}

function show(element, attributes) {
  const shown = { theme: themeOf(element.ownerDocument), ...attributes };
  for (const { name } of [...element.attributes]) if (!(name in shown)) element.removeAttribute(name);
  for (const [name, value] of Object.entries(shown)) if (value !== null) element.setAttribute(name, value);
}

export default () => {
  let line;
  return {
    initialize({ model }) {
      line = new Line(model);
      return () => line.close();
    },
    async render({ model, el }) {
      await loadElements();
      const element = document.createElement(model.get("_tag"));
      const update = () => show(element, model.get("_attributes"));
      update();
      element.socket = line;
      el.append(element);
      model.on("change:_attributes", update);
      return () => {
        model.off("change:_attributes", update);
        element.remove();
      };
    },
  };
};
