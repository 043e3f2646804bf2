// A list of any number of jobs, of which only the rows that are seen are on the page; and its keyboard.

import { h, Row, set } from "./celery-realtime-row.js";

const OVERSCAN = 6; // rows above and below those that are seen
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };

export class List {
  opened = new Set(); // keys of entries of which more is shown
  _entries = []; // { key, part, rank }: all that can be scrolled to
  _shown = new Map(); // key -> its row
  _extra = new Map(); // key -> height of its details
  _places = []; // of entries with details, [place, height]
  _height = 60;
  _from = 0;

  // `jobOf` returns what a row shows of an entry.
  constructor(host, jobOf) {
    Object.assign(this, { _host: host, _jobOf: jobOf });
    [this._above, this.rows, this._below] = [h("div"), h("ol"), h("div")];
    this.rows.role = "list";
    this.root = h("div", "list", this._above, this.rows, this._below);
    this.root.tabIndex = -1;
    this.root.addEventListener("scroll", this._scrolled, { passive: true }); // it does not leave the shadow tree
    this.root.addEventListener("keydown", (event) => this._press(event));
    this.root.addEventListener("focusin", ({ target }) => this._activate(target.closest("li")?.row));
  }

  // While the element is on a page.
  watch() {
    this._sizes ??= new ResizeObserver((changes) => {
      for (const { target } of changes) if (target.row?.details) this._extra.set(target.row.key, target.offsetHeight);
      this._host._changed();
    });
    this._sizes.observe(this.root);
    document.addEventListener("scroll", this._scrolled, { capture: true, passive: true });
  }

  unwatch() {
    this._sizes?.disconnect(); // it may never have been on a page
    document.removeEventListener("scroll", this._scrolled, true);
  }

  _scrolled = () => { if (this._entries.length) this.show(); };

  clear() {
    for (const row of this._shown.values()) this._drop(row);
    for (const one of [this._extra, this.opened]) one.clear();
    this._entries = [];
  }

  tick() { for (const row of this._shown.values()) row.tick(); }

  // Take entries in a new order. What a reader looks at stays where it is while others come and go above.
  arrange(entries) {
    const { scrollTop } = this.root, before = [];
    for (let place = this._from; scrollTop && place < Math.min(this._entries.length, this._from + 40); place++) {
      const top = this._top(place), entry = this._entries[place];
      if (top >= scrollTop && entry.rank === entry.wasRank) before.push({ entry, top });
    }
    this._entries = entries;
    this._locate();
    const kept = before.find(({ entry }) => entries.includes(entry));
    if (kept) this.root.scrollTop += this._top(entries.indexOf(kept.entry)) - kept.top;
    for (const entry of entries) entry.wasRank = entry.rank;
  }

  _locate() {
    this._places = [];
    if (!this._extra.size) return;
    this._entries.forEach(({ key }, place) => { if (this._extra.has(key)) this._places.push([place, this._extra.get(key)]); });
  }

  // Where an entry is, and which is where. Most have the same height.
  _top(place) {
    return this._places.reduce((top, [at, extra]) => (at < place ? top + extra : top), place * this._height);
  }

  _placeAt(top) {
    let before = 0;
    for (const [at, extra] of this._places) {
      const begin = at * this._height + before;
      if (top < begin + this._height) break;
      if (top < begin + this._height + extra) return at;
      before += extra;
    }
    return Math.floor((top - before) / this._height);
  }

  // Draw the rows that are seen, and no others.
  show() {
    const entries = this._entries, { length } = entries;
    this._locate();
    const clip = this.root.getBoundingClientRect(), { top } = this._above.getBoundingClientRect();
    const first = this._placeAt(Math.max(clip.top, 0) - top), last = this._placeAt(Math.min(clip.bottom, innerHeight) - top);
    const from = (this._from = Math.max(0, Math.min(first, length) - OVERSCAN));
    const to = Math.min(length, Math.max(last, from) + OVERSCAN + 1);
    this._above.style.blockSize = `${this._top(from)}px`;
    this._below.style.blockSize = `${this._top(length) - this._top(to)}px`;
    this._draw(entries.slice(from, to), from);
    const height = this.rows.firstChild?.firstChild.getBoundingClientRect().height;
    if (!height || height === this._height) return;
    this._height = height;
    this._host._changed();
  }

  _draw(entries, from) {
    const keys = new Set(entries.map(({ key }) => key)), { activeElement: focused } = this._host.shadowRoot;
    for (const row of this._shown.values()) if (!keys.has(row.key)) this._drop(row);
    let next = this.rows.firstChild;
    entries.forEach((entry, index) => {
      const { key, part } = entry, row = this._shown.get(key) ?? this._add(key);
      if (row.root === next) next = next.nextSibling;
      else if (row.root.isConnected && this.rows.moveBefore) this.rows.moveBefore(row.root, next);
      else this.rows.insertBefore(row.root, next);
      row.update(this._jobOf(entry), this.opened.has(key), part);
      set(row.root, "aria-setsize", this._entries.length);
      set(row.root, "aria-posinset", from + index + 1);
      const isActive = this._active === key || (!keys.has(this._active) && !index);
      for (const one of row.buttons) one.tabIndex = isActive ? 0 : -1;
    });
    // The keyboard stays where it is, or in the list if its row is gone. Not earlier: focus() looks at a list that is not whole.
    const held = focused?.isConnected ? focused : focused && (this._shown.get(this._active)?.name ?? this.root);
    if (held && this._host.shadowRoot.activeElement !== held) held.focus({ preventScroll: true });
  }

  _add(key) {
    const row = new Row(this._host, "li", () => {
      if (!this.opened.delete(key)) this.opened.add(key);
      this._extra.delete(key);
      this._host._changed();
    }, ({ job }) => {
      const place = this._entries.findIndex((entry) => entry.key === key), next = this._entries[place + 1] ?? this._entries[place - 1];
      this._active = next?.key;
      this._host.dismiss(job.members?.map((member) => member.key) ?? [key]);
    });
    Object.assign(row, { key, opened: (details) => this._sizes.observe(Object.assign(details, { row })) });
    row.root.row = row;
    this._shown.set(key, row);
    return row;
  }

  _drop(row) {
    row.close();
    row.root.remove();
    this._shown.delete(row.key);
  }

  _activate(row) {
    if (!row || row.key === this._active) return;
    this._active = row.key;
    this._host._changed();
  }

  _press(event) {
    const step = STEPS[event.key], { root, _entries: entries } = this;
    if (!step || event.target.closest(".details") || !entries.length) return;
    event.preventDefault();
    const before = Math.max(0, entries.findIndex(({ key }) => key === this._active));
    const place = Math.max(0, Math.min(entries.length - 1, before + step)), top = this._top(place);
    this._active = entries[place].key;
    if (top < root.scrollTop) root.scrollTop = top;
    else if (top + this._height > root.scrollTop + root.clientHeight) root.scrollTop = top + this._height - root.clientHeight;
    this.show();
    if (!this._shown.has(this._active)) this._reveal(place);
    this._shown.get(this._active)?.name.focus();
  }

  // Where the list is as long as its rows, the page scrolls.
  _reveal(place) {
    (place ? this._below : this._above).scrollIntoView({ block: place ? "end" : "start" });
    this.show();
  }
}
