// What a function finds round it: console, timers, URL, Buffer, fetch, require and so on, over the natives of engine.c.
// Evaluated once, when the engine's image is built; every call starts with it already there. Gives the entry points to engine.c.
(function (host) {
  "use strict";
  const global = globalThis;
  const define = (name, value) =>
    Object.defineProperty(global, name, { value, writable: true, configurable: true, enumerable: false });
  const bytesOf = (data) =>
    data instanceof Uint8Array ? data
      : data instanceof ArrayBuffer ? new Uint8Array(data)
      : ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : null;

  // ---- console -------------------------------------------------------------------------------------------------------------------
  const inspect = (value, depth = 0, seen = []) => {
    if (typeof value === "string") return depth ? JSON.stringify(value) : value;
    if (typeof value === "function") return `[Function: ${value.name || "anonymous"}]`;
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value !== "object" || value === null) return String(value);
    if (value instanceof Error) return value.stack ? `${value}\n${value.stack}`.trimEnd() : String(value);
    if (value instanceof Date || value instanceof RegExp) return String(value);
    if (seen.includes(value)) return "[Circular]";
    if (depth > 3) return Array.isArray(value) ? "[Array]" : "[Object]";
    const inner = [...seen, value];
    const list = (items) => items.slice(0, 100).concat(items.length > 100 ? [`... ${items.length - 100} more`] : []).join(", ");
    if (Array.isArray(value)) return value.length ? `[ ${list(value.map((v) => inspect(v, depth + 1, inner)))} ]` : "[]";
    if (ArrayBuffer.isView(value)) return `${value.constructor.name}(${value.length}) [ ${list(Array.from(value.slice(0, 101), String))} ]`;
    if (value instanceof Map) {
      return `Map(${value.size}) { ${list([...value].map(([k, v]) => `${inspect(k, depth + 1, inner)} => ${inspect(v, depth + 1, inner)}`))} }`;
    }
    if (value instanceof Set) return `Set(${value.size}) { ${list([...value].map((v) => inspect(v, depth + 1, inner)))} }`;
    const entries = Object.entries(value).map(([k, v]) => `${/^[\w$]+$/.test(k) ? k : JSON.stringify(k)}: ${inspect(v, depth + 1, inner)}`);
    return entries.length ? `{ ${list(entries)} }` : "{}";
  };
  const format = (...values) => {
    if (typeof values[0] === "string" && values[0].includes("%") && values.length > 1) {
      const rest = values.slice(1);
      const text = values[0].replace(/%[sdifjoOc%]/g, (mark) => {
        if (mark === "%%") return "%";
        if (!rest.length) return mark;
        const value = rest.shift();
        switch (mark) {
          case "%d": return String(Number(value));
          case "%i": return String(parseInt(value, 10));
          case "%f": return String(parseFloat(value));
          case "%j": return JSON.stringify(value);
          case "%c": return "";
          case "%s": return typeof value === "string" ? value : inspect(value, 1);
          default: return inspect(value, 1);
        }
      });
      return [text, ...rest.map((v) => inspect(v))].join(" ");
    }
    return values.map((v) => inspect(v)).join(" ");
  };
  const counts = new Map(), started = new Map();
  let indent = "";
  const print = (...values) => host.log(indent + format(...values).replaceAll("\n", "\n" + indent) + "\n");
  define("console", {
    log: print, info: print, debug: print, warn: print, error: print, dir: (value) => print(inspect(value, 1)),
    trace: (...values) => print(...values, "\n" + new Error().stack),
    assert: (ok, ...values) => { if (!ok) print("Assertion failed" + (values.length ? ":" : ""), ...values); },
    group: (...values) => { if (values.length) print(...values); indent += "  "; },
    groupEnd: () => { indent = indent.slice(2); },
    count: (label = "default") => { counts.set(label, (counts.get(label) ?? 0) + 1); print(`${label}: ${counts.get(label)}`); },
    time: (label = "default") => { started.set(label, host.now()); },
    timeEnd: (label = "default") => { print(`${label}: ${(host.now() - (started.get(label) ?? host.now())).toFixed(3)}ms`); started.delete(label); },
    table: print,
  });

  // ---- text ----------------------------------------------------------------------------------------------------------------------
  define("TextEncoder", class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return host.encode(String(text).toWellFormed()); }
    encodeInto(text, into) {
      let read = 0, written = 0;
      for (const character of String(text)) {
        const bytes = host.encode(character.toWellFormed());
        if (written + bytes.length > into.length) break;
        into.set(bytes, written);
        written += bytes.length;
        read += character.length;
      }
      return { read, written };
    }
  });
  define("TextDecoder", class TextDecoder {
    #encoding; #fatal; #bom;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
      const name = String(label).trim().toLowerCase();
      if (["utf-8", "utf8", "unicode-1-1-utf-8"].includes(name)) this.#encoding = "utf-8";
      else if (["latin1", "iso-8859-1", "ascii", "us-ascii", "windows-1252"].includes(name)) this.#encoding = "windows-1252";
      else if (["utf-16le", "utf-16"].includes(name)) this.#encoding = "utf-16le";
      else throw new RangeError(`The encoding '${label}' is not there; utf-8, utf-16le and latin1 are.`);
      this.#fatal = fatal;
      this.#bom = ignoreBOM;
    }
    get encoding() { return this.#encoding; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#bom; }
    decode(data = new Uint8Array()) {
      const bytes = bytesOf(data);
      if (!bytes) throw new TypeError("TextDecoder.decode needs an ArrayBuffer or a view of one");
      if (this.#encoding === "windows-1252") return fromLatin1(bytes);
      if (this.#encoding === "utf-16le") return fromUtf16(bytes);
      let text = host.decode(bytes);
      if (this.#fatal && text.includes("\ufffd") && !same(host.encode(text), bytes)) {
        throw new TypeError("The bytes are not valid UTF-8");
      }
      if (!this.#bom && text.charCodeAt(0) === 0xfeff) text = text.slice(1);
      return text;
    }
  });
  const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
  const fromLatin1 = (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode.apply(null, bytes.subarray(at, at + 4096));
    return text;
  };
  const fromUtf16 = (bytes) => {
    let text = "";
    for (let at = 0; at + 1 < bytes.length; at += 2) text += String.fromCharCode(bytes[at] | bytes[at + 1] << 8);
    return text;
  };

  // ---- timers --------------------------------------------------------------------------------------------------------------------
  const timers = new Map();
  let lastTimer = 0;
  class Timeout {
    constructor(id) { this.id = id; }
    ref() { return this; }
    unref() { return this; }
    hasRef() { return timers.has(this.id); }
    refresh() { const timer = timers.get(this.id); if (timer) timer.due = host.now() + timer.delay; return this; }
    [Symbol.toPrimitive]() { return this.id; }
  }
  const arm = (callback, delay, repeat, values) => {
    if (typeof callback !== "function") throw new TypeError("a timer needs a function");
    delay = Math.max(repeat ? 1 : 0, Math.min(Number(delay) || 0, 0x7fffffff));
    const id = ++lastTimer;
    timers.set(id, { callback, delay, repeat, values, due: host.now() + delay });
    return new Timeout(id);
  };
  const disarm = (timer) => { timers.delete(timer instanceof Timeout ? timer.id : Number(timer)); };
  // Runs the timers that are due. Gives 0 when it ran one, how long to wait for the next, or -1 when there is none.
  const fire = () => {
    let next = null, id = 0;
    for (const [key, timer] of timers) if (!next || timer.due < next.due) { next = timer; id = key; }
    if (!next) return -1;
    const wait = next.due - host.now();
    if (wait > 0) return wait;
    if (next.repeat) next.due = host.now() + next.delay;
    else timers.delete(id);
    next.callback(...next.values);
    return 0;
  };
  define("setTimeout", (callback, delay, ...values) => arm(callback, delay, false, values));
  define("setInterval", (callback, delay, ...values) => arm(callback, delay, true, values));
  define("setImmediate", (callback, ...values) => arm(callback, 0, false, values));
  define("clearTimeout", disarm);
  define("clearInterval", disarm);
  define("clearImmediate", disarm);

  // ---- time, process -------------------------------------------------------------------------------------------------------------
  // host.now() counts milliseconds from the beginning of the call.
  define("performance", { now: host.now, get timeOrigin() { return Date.now() - host.now(); }, mark() {}, measure() {} });
  let environmentText = "", environment = null;
  const hrtime = (before) => {
    const now = host.now();
    let seconds = Math.floor(now / 1000), nanoseconds = Math.floor((now % 1000) * 1e6);
    if (before) {
      seconds -= before[0];
      nanoseconds -= before[1];
      if (nanoseconds < 0) { seconds -= 1; nanoseconds += 1e9; }
    }
    return [seconds, nanoseconds];
  };
  hrtime.bigint = () => BigInt(Math.floor(host.now() * 1e6));
  define("process", {
    get env() { return environment ??= environmentText ? JSON.parse(environmentText) : {}; },
    argv: ["teemate"], platform: "teemate", arch: "wasm32", pid: 1, version: "v20.0.0", versions: { node: "20.0.0", quickjs: "ng" },
    hrtime, uptime: () => host.now() / 1000, cwd: () => "/",
    nextTick: (callback, ...values) => queueMicrotask(() => callback(...values)),
    memoryUsage: () => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0 }),
    on() { return this; }, once() { return this; }, off() { return this; }, emitWarning: (text) => print(text),
    stdout: { write: (text) => { host.log(String(text)); return true; } },
    stderr: { write: (text) => { host.log(String(text)); return true; } },
    exit: (code = 0) => { throw new Error(`process.exit(${code}): return a result instead`); },
  });

  // ---- structuredClone -----------------------------------------------------------------------------------------------------------
  define("structuredClone", (value) => {
    const done = new Map();
    const clone = (it) => {
      if (typeof it === "function" || typeof it === "symbol") throw new DOMException(`${String(it)} could not be cloned.`, "DataCloneError");
      if (typeof it !== "object" || it === null) return it;
      if (done.has(it)) return done.get(it);
      const keep = (copy) => { done.set(it, copy); return copy; };
      if (it instanceof Date) return keep(new Date(it));
      if (it instanceof RegExp) return keep(new RegExp(it.source, it.flags));
      if (it instanceof ArrayBuffer) return keep(it.slice(0));
      if (it instanceof DataView) return keep(new DataView(clone(it.buffer), it.byteOffset, it.byteLength));
      if (ArrayBuffer.isView(it)) return keep(new (Object.getPrototypeOf(it).constructor === Buffer ? Uint8Array : it.constructor)(clone(it.buffer), it.byteOffset, it.length));
      if (it instanceof Map) { const copy = keep(new Map()); for (const [k, v] of it) copy.set(clone(k), clone(v)); return copy; }
      if (it instanceof Set) { const copy = keep(new Set()); for (const v of it) copy.add(clone(v)); return copy; }
      if (it instanceof Error) {
        const copy = keep(new (global[it.name] ?? Error)(it.message));
        copy.stack = it.stack;
        return copy;
      }
      if (it instanceof Boolean || it instanceof Number || it instanceof String) return keep(Object(it.valueOf()));
      if (it instanceof Promise || it instanceof WeakMap || it instanceof WeakSet) throw new DOMException(`${inspect(it)} could not be cloned.`, "DataCloneError");
      const copy = keep(Array.isArray(it) ? new Array(it.length) : {});
      for (const key of Object.keys(it)) copy[key] = clone(it[key]);
      return copy;
    };
    return clone(value);
  });

  // ---- random --------------------------------------------------------------------------------------------------------------------
  const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
  const crypto = {
    getRandomValues(view) {
      const bytes = bytesOf(view);
      if (!bytes || view instanceof Float32Array || view instanceof Float64Array) throw new TypeError("getRandomValues needs a view of integers");
      if (bytes.length > 65536) throw new DOMException(`${bytes.length} bytes are more than the 65,536 that one call gives`, "QuotaExceededError");
      host.random(bytes);
      return view;
    },
    randomUUID() {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      bytes[6] = bytes[6] & 0x0f | 0x40;
      bytes[8] = bytes[8] & 0x3f | 0x80;
      const text = Array.from(bytes, (byte) => hex[byte]).join("");
      return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${text.slice(20)}`;
    },
    subtle: {
      async digest(algorithm, data) {
        const name = String(algorithm?.name ?? algorithm).toLowerCase().replace("-", "");
        const digest = host.hash(name, bytesOf(data));
        return digest.buffer.slice(digest.byteOffset, digest.byteOffset + digest.byteLength);
      },
    },
  };
  define("crypto", crypto);

  // ---- Buffer --------------------------------------------------------------------------------------------------------------------
  const encodingOf = (encoding) => {
    switch (String(encoding ?? "utf8").toLowerCase()) {
      case "utf8": case "utf-8": return "utf8";
      case "hex": return "hex";
      case "base64": return "base64";
      case "base64url": return "base64url";
      case "latin1": case "binary": return "latin1";
      case "ascii": return "ascii";
      case "ucs2": case "ucs-2": case "utf16le": case "utf-16le": return "utf16le";
      default: throw new TypeError(`Unknown encoding: ${encoding}`);
    }
  };
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const sextet = new Int8Array(128).fill(-1);
  for (let at = 0; at < 64; at++) sextet[alphabet.charCodeAt(at)] = at;
  sextet[45] = 62;
  sextet[95] = 63;
  const fromBase64 = (text) => {
    const bytes = new Uint8Array(Math.ceil(text.length * 3 / 4));
    let bits = 0, held = 0, length = 0;
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code === 61) break;
      const value = code < 128 ? sextet[code] : -1;
      if (value < 0) continue;
      bits = bits << 6 | value;
      held += 6;
      if (held >= 8) { held -= 8; bytes[length++] = bits >> held; bits &= (1 << held) - 1; }
    }
    return bytes.subarray(0, length);
  };
  const toBase64 = (bytes, url) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 3) {
      const word = bytes[at] << 16 | (bytes[at + 1] ?? 0) << 8 | (bytes[at + 2] ?? 0);
      text += alphabet[word >> 18] + alphabet[word >> 12 & 63];
      if (at + 1 < bytes.length) text += alphabet[word >> 6 & 63]; else if (!url) text += "=";
      if (at + 2 < bytes.length) text += alphabet[word & 63]; else if (!url) text += "=";
    }
    return url ? text.replaceAll("+", "-").replaceAll("/", "_") : text;
  };
  const toBytes = (text, encoding) => {
    switch (encodingOf(encoding)) {
      case "utf8": return host.encode(text.toWellFormed());
      case "hex": {
        const bytes = new Uint8Array(text.length >> 1);
        for (let at = 0; at < bytes.length; at++) {
          const pair = text.slice(at * 2, at * 2 + 2);
          if (!/^[0-9a-fA-F]{2}$/.test(pair)) return bytes.subarray(0, at);
          bytes[at] = parseInt(pair, 16);
        }
        return bytes;
      }
      case "base64": case "base64url": return fromBase64(text);
      case "utf16le": {
        const bytes = new Uint8Array(text.length * 2);
        for (let at = 0; at < text.length; at++) { bytes[at * 2] = text.charCodeAt(at); bytes[at * 2 + 1] = text.charCodeAt(at) >> 8; }
        return bytes;
      }
      default: {
        const bytes = new Uint8Array(text.length);
        for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
        return bytes;
      }
    }
  };
  const view = (bytes) => Object.setPrototypeOf(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), Buffer.prototype);
  class Buffer extends Uint8Array {
    static from(data, encodingOrOffset, length) {
      if (typeof data === "string") return view(toBytes(data, encodingOrOffset));
      if (data instanceof ArrayBuffer) return view(new Uint8Array(data, encodingOrOffset, length));
      if (data?.type === "Buffer" && Array.isArray(data.data)) return view(Uint8Array.from(data.data));
      if (ArrayBuffer.isView(data) || Array.isArray(data) || typeof data?.[Symbol.iterator] === "function") return view(Uint8Array.from(data));
      if (typeof data?.length === "number") return view(Uint8Array.from(data));
      throw new TypeError(`Buffer.from needs a string, an array or a buffer, not ${data === null ? "null" : typeof data}`);
    }
    static of(...bytes) { return view(Uint8Array.from(bytes)); }
    static alloc(size, fill, encoding) {
      const buffer = view(new Uint8Array(size));
      return fill === undefined ? buffer : buffer.fill(fill, 0, size, encoding);
    }
    static allocUnsafe(size) { return view(new Uint8Array(size)); }
    static isBuffer(it) { return it instanceof Buffer; }
    static isEncoding(name) { try { encodingOf(name); return true; } catch { return false; } }
    static byteLength(data, encoding) { return typeof data === "string" ? toBytes(data, encoding).length : data.byteLength; }
    static concat(list, total = list.reduce((sum, part) => sum + part.length, 0)) {
      const buffer = Buffer.alloc(total);
      let at = 0;
      for (const part of list) {
        const piece = at + part.length > total ? part.subarray(0, total - at) : part;
        buffer.set(piece, at);
        at += piece.length;
      }
      return buffer;
    }
    static compare(a, b) {
      const length = Math.min(a.length, b.length);
      for (let at = 0; at < length; at++) if (a[at] !== b[at]) return a[at] < b[at] ? -1 : 1;
      return Math.sign(a.length - b.length);
    }
    toString(encoding, start = 0, end = this.length) {
      const bytes = start || end !== this.length ? Uint8Array.prototype.subarray.call(this, start, end) : this;
      switch (encodingOf(encoding)) {
        case "utf8": return host.decode(bytes);
        case "hex": { let text = ""; for (let at = 0; at < bytes.length; at++) text += hex[bytes[at]]; return text; }
        case "base64": return toBase64(bytes, false);
        case "base64url": return toBase64(bytes, true);
        case "utf16le": return fromUtf16(bytes);
        case "ascii": return fromLatin1(Uint8Array.from(bytes, (byte) => byte & 127));
        default: return fromLatin1(bytes);
      }
    }
    toJSON() { return { type: "Buffer", data: Array.from(this) }; }
    equals(other) { return Buffer.compare(this, other) === 0; }
    compare(other) { return Buffer.compare(this, other); }
    subarray(start, end) { return view(Uint8Array.prototype.subarray.call(this, start, end)); }
    slice(start, end) { return this.subarray(start, end); }
    write(text, offset = 0, length, encoding) {
      if (typeof offset === "string") { encoding = offset; offset = 0; length = undefined; }
      else if (typeof length === "string") { encoding = length; length = undefined; }
      const bytes = toBytes(text, encoding).subarray(0, Math.min(length ?? Infinity, this.length - offset));
      this.set(bytes, offset);
      return bytes.length;
    }
    copy(target, at = 0, start = 0, end = this.length) {
      const piece = Uint8Array.prototype.subarray.call(this, start, Math.min(end, start + target.length - at));
      target.set(piece, at);
      return piece.length;
    }
    fill(value, start = 0, end = this.length, encoding) {
      if (typeof start === "string") { encoding = start; start = 0; }
      if (typeof value !== "string") return super.fill(value, start, end);
      const bytes = toBytes(value, encoding);
      if (!bytes.length) return super.fill(0, start, end);
      for (let at = start; at < end; at++) this[at] = bytes[(at - start) % bytes.length];
      return this;
    }
    indexOf(value, from = 0, encoding) {
      if (typeof value === "number") return super.indexOf(value & 255, from);
      const bytes = typeof value === "string" ? toBytes(value, encoding) : value;
      search: for (let at = from; at + bytes.length <= this.length; at++) {
        for (let i = 0; i < bytes.length; i++) if (this[at + i] !== bytes[i]) continue search;
        return at;
      }
      return -1;
    }
    includes(value, from, encoding) { return this.indexOf(value, from, encoding) >= 0; }
  }
  const numbers = { UInt8: 1, Int8: 1, UInt16: 2, Int16: 2, UInt32: 4, Int32: 4, Float: 4, Double: 8, BigUInt64: 8, BigInt64: 8 };
  for (const [name, size] of Object.entries(numbers)) {
    const method = { UInt8: "Uint8", UInt16: "Uint16", UInt32: "Uint32", Float: "Float32", Double: "Float64", BigUInt64: "BigUint64" }[name] ?? name;
    for (const [ending, little] of size === 1 ? [["", true]] : [["LE", true], ["BE", false]]) {
      const dataView = (buffer) => new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
      const read = function (offset = 0) { return dataView(this)["get" + method](offset, little); };
      const write = function (value, offset = 0) { dataView(this)["set" + method](offset, value, little); return offset + size; };
      for (const alias of new Set([name, name.replace("UInt", "Uint")])) {
        Object.defineProperty(Buffer.prototype, `read${alias}${ending}`, { value: read, writable: true, configurable: true });
        Object.defineProperty(Buffer.prototype, `write${alias}${ending}`, { value: write, writable: true, configurable: true });
      }
    }
  }
  define("Buffer", Buffer);

  // ---- URL -----------------------------------------------------------------------------------------------------------------------
  const percent = (text, keep) => {
    let result = "";
    for (const byte of host.encode(text.toWellFormed())) {
      const character = String.fromCharCode(byte);
      result += byte < 128 && keep.test(character) ? character : "%" + hex[byte].toUpperCase();
    }
    return result;
  };
  const unpercent = (text) => {
    if (!text.includes("%")) return text;
    const bytes = host.encode(text), result = [];
    for (let at = 0; at < bytes.length; at++) {
      const pair = bytes[at] === 37 ? String.fromCharCode(bytes[at + 1] ?? 0, bytes[at + 2] ?? 0) : "";
      if (/^[0-9a-fA-F]{2}$/.test(pair)) { result.push(parseInt(pair, 16)); at += 2; } else result.push(bytes[at]);
    }
    return host.decode(Uint8Array.from(result));
  };
  class URLSearchParams {
    #pairs = []; #changed = null;
    constructor(init = "", changed = null) {
      this.#changed = changed;
      if (typeof init === "string") {
        for (const part of init.replace(/^\?/, "").split("&")) {
          if (!part) continue;
          const at = part.indexOf("="), plain = (text) => unpercent(text.replaceAll("+", " "));
          this.#pairs.push(at < 0 ? [plain(part), ""] : [plain(part.slice(0, at)), plain(part.slice(at + 1))]);
        }
      } else if (typeof init?.[Symbol.iterator] === "function") {
        for (const [name, value] of init) this.#pairs.push([String(name), String(value)]);
      } else if (init) for (const [name, value] of Object.entries(init)) this.#pairs.push([name, String(value)]);
    }
    #tell() { this.#changed?.(this.toString()); }
    get size() { return this.#pairs.length; }
    append(name, value) { this.#pairs.push([String(name), String(value)]); this.#tell(); }
    delete(name) { this.#pairs = this.#pairs.filter(([n]) => n !== String(name)); this.#tell(); }
    get(name) { return this.#pairs.find(([n]) => n === String(name))?.[1] ?? null; }
    getAll(name) { return this.#pairs.filter(([n]) => n === String(name)).map(([, v]) => v); }
    has(name) { return this.#pairs.some(([n]) => n === String(name)); }
    set(name, value) {
      const at = this.#pairs.findIndex(([n]) => n === String(name));
      if (at < 0) this.#pairs.push([String(name), String(value)]);
      else this.#pairs = this.#pairs.filter(([n], i) => i <= at || n !== String(name)).map((pair, i) => i === at ? [pair[0], String(value)] : pair);
      this.#tell();
    }
    sort() { this.#pairs.sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0); this.#tell(); }
    forEach(callback, self) { for (const [name, value] of this.#pairs) callback.call(self, value, name, this); }
    *entries() { yield* this.#pairs.map((pair) => [...pair]); }
    *keys() { for (const [name] of this.#pairs) yield name; }
    *values() { for (const [, value] of this.#pairs) yield value; }
    [Symbol.iterator]() { return this.entries(); }
    toString() {
      const form = (text) => percent(text, /[A-Za-z0-9*._-]| /).replaceAll(" ", "+");
      return this.#pairs.map(([name, value]) => `${form(name)}=${form(value)}`).join("&");
    }
  }
  const ports = { "http:": "80", "https:": "443", "ws:": "80", "wss:": "443", "ftp:": "21", "file:": "" };
  const straighten = (path) => {
    const parts = [];
    const pieces = path.split("/").slice(1);
    pieces.forEach((piece, at) => {
      const plain = piece.replace(/%2e/gi, ".");
      const last = at === pieces.length - 1;
      if (plain === "..") { parts.pop(); if (last) parts.push(""); }
      else if (plain === ".") { if (last) parts.push(""); }
      else parts.push(piece);
    });
    return "/" + parts.join("/");
  };
  class URL {
    #protocol; #username = ""; #password = ""; #hostname = ""; #port = ""; #path = ""; #search = ""; #hash = ""; #params;
    constructor(text, base) {
      text = String(text).replace(/^[\0-\x20]+|[\0-\x20]+$/g, "").replace(/[\t\n\r]/g, "");
      const invalid = () => Object.assign(new TypeError(`Invalid URL: ${text}`), { code: "ERR_INVALID_URL", input: text });
      const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(text);
      if (!scheme) {
        if (base === undefined) throw invalid();
        const from = base instanceof URL ? base : new URL(base);
        if (!(from.protocol in ports)) throw invalid();
        text = text.replace(/^[^?#]*/, (path) => path.replaceAll("\\", "/"));
        const authority = `${from.username ? from.username + (from.password ? ":" + from.password : "") + "@" : ""}${from.host}`;
        if (text.startsWith("//")) text = from.protocol + text;
        else if (text.startsWith("/")) text = `${from.protocol}//${authority}${text}`;
        else if (text === "") text = `${from.protocol}//${authority}${from.pathname}${from.search}`;
        else if (text.startsWith("?")) text = `${from.protocol}//${authority}${from.pathname}${text}`;
        else if (text.startsWith("#")) text = `${from.protocol}//${authority}${from.pathname}${from.search}${text}`;
        else text = `${from.protocol}//${authority}${from.pathname.replace(/[^/]*$/, "")}${text}`;
      }
      const match = /^([A-Za-z][A-Za-z0-9+.-]*):([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(text);
      if (!match) throw invalid();
      this.#protocol = match[1].toLowerCase() + ":";
      if (this.#protocol in ports) {
        const rest = /^[\\/]*([^\\/]*)(.*)$/s.exec(match[2]);
        const user = /^(?:([^:]*)(?::(.*))?@)?(\[[0-9A-Fa-f:.]+\]|[^:@\[\]]*)(?::(\d*))?$/s.exec(rest[1]);
        if (!user || (!user[3] && this.#protocol !== "file:") || Number(user[4] ?? 0) > 65535) throw invalid();
        this.#username = percent(unpercent(user[1] ?? ""), /[A-Za-z0-9!$&'()*+,;%._~-]/);
        this.#password = percent(unpercent(user[2] ?? ""), /[A-Za-z0-9!$&'()*+,;%._~-]/);
        this.#hostname = unpercent(user[3]).toLowerCase();
        if (/[\0-\x20#%/:<>?@\\^|]/.test(this.#hostname.replace(/^\[.*\]$/, ""))) throw invalid();
        this.port = user[4] ?? "";
        this.pathname = rest[2];
      } else if (match[2].startsWith("//")) {
        const rest = /^\/\/(?:([^:@/]*)(?::([^@/]*))?@)?([^:/]*)(?::(\d*))?(\/.*)?$/s.exec(match[2]);
        if (!rest) throw invalid();
        [this.#username, this.#password, this.#hostname, this.#port, this.#path] = [1, 2, 3, 4, 5].map((i) => rest[i] ?? "");
      } else this.#path = match[2];
      this.search = match[3] ?? "";
      this.hash = match[4] ?? "";
    }
    static canParse(text, base) { try { new URL(text, base); return true; } catch { return false; } }
    static parse(text, base) { try { return new URL(text, base); } catch { return null; } }
    get protocol() { return this.#protocol; }
    set protocol(text) { const name = String(text).replace(/:?$/, ":").toLowerCase(); if (name in ports === this.#protocol in ports) this.#protocol = name; }
    get username() { return this.#username; }
    set username(text) { this.#username = percent(String(text), /[A-Za-z0-9!$&'()*+,;._~-]/); }
    get password() { return this.#password; }
    set password(text) { this.#password = percent(String(text), /[A-Za-z0-9!$&'()*+,;._~-]/); }
    get hostname() { return this.#hostname; }
    set hostname(text) { this.#hostname = String(text).toLowerCase(); }
    get port() { return this.#port; }
    set port(text) {
      const number = /^\d+/.exec(String(text));
      this.#port = number && String(Number(number[0])) !== ports[this.#protocol] ? String(Number(number[0])) : "";
    }
    get host() { return this.#hostname + (this.#port ? ":" + this.#port : ""); }
    set host(text) { const [, name, port] = /^(\[.*\]|[^:]*)(?::(\d+))?$/.exec(String(text)) ?? []; if (name) { this.hostname = name; this.port = port ?? ""; } }
    get origin() { return this.#protocol in ports && this.#protocol !== "file:" ? `${this.#protocol}//${this.host}` : "null"; }
    get pathname() { return this.#path; }
    set pathname(text) {
      const path = String(text).replaceAll("\\", "/");
      this.#path = straighten(percent(path.startsWith("/") ? path : "/" + path, /[A-Za-z0-9!$&'()*+,;=:@%/._~\[\]|^-]/));
    }
    get search() { return this.#search; }
    set search(text) {
      const query = String(text).replace(/^\?/, "");
      this.#search = query ? "?" + percent(query, /[A-Za-z0-9!$&()*+,;=:@%/?._~\[\]\\^`{|}-]/) : "";
      this.#params = null;
    }
    get hash() { return this.#hash; }
    set hash(text) {
      const fragment = String(text).replace(/^#/, "");
      this.#hash = fragment ? "#" + percent(fragment, /[A-Za-z0-9!#$&'()*+,;=:@%/?._~\[\]\\^{|}-]/) : "";
    }
    get searchParams() { return this.#params ??= new URLSearchParams(this.#search, (text) => { this.#search = text ? "?" + text : ""; }); }
    get href() {
      const user = this.#username || this.#password ? `${this.#username}${this.#password ? ":" + this.#password : ""}@` : "";
      const authority = this.#protocol in ports || this.#hostname ? `//${user}${this.host}` : "";
      return this.#protocol + authority + this.#path + this.#search + this.#hash;
    }
    toString() { return this.href; }
    toJSON() { return this.href; }
  }
  define("URL", URL);
  define("URLSearchParams", URLSearchParams);

  // ---- events, abort -------------------------------------------------------------------------------------------------------------
  class EventEmitter {
    #listeners = new Map();
    on(name, listener) { this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]); return this; }
    addListener(name, listener) { return this.on(name, listener); }
    once(name, listener) {
      const wrapper = (...values) => { this.off(name, wrapper); listener.apply(this, values); };
      wrapper.listener = listener;
      return this.on(name, wrapper);
    }
    off(name, listener) {
      this.#listeners.set(name, (this.#listeners.get(name) ?? []).filter((each) => each !== listener && each.listener !== listener));
      return this;
    }
    removeListener(name, listener) { return this.off(name, listener); }
    removeAllListeners(name) { if (name === undefined) this.#listeners.clear(); else this.#listeners.delete(name); return this; }
    emit(name, ...values) {
      const listeners = this.#listeners.get(name) ?? [];
      if (!listeners.length && name === "error") throw values[0] instanceof Error ? values[0] : new Error(`Unhandled error. (${inspect(values[0])})`);
      for (const listener of listeners) listener.apply(this, values);
      return listeners.length > 0;
    }
    listeners(name) { return [...(this.#listeners.get(name) ?? [])]; }
    listenerCount(name) { return (this.#listeners.get(name) ?? []).length; }
    setMaxListeners() { return this; }
  }
  EventEmitter.EventEmitter = EventEmitter;
  class AbortSignal {
    aborted = false; reason = undefined; onabort = null; #events = new EventEmitter();
    addEventListener(name, listener) { this.#events.on(name, listener); }
    removeEventListener(name, listener) { this.#events.off(name, listener); }
    throwIfAborted() { if (this.aborted) throw this.reason; }
    static abort(reason = new DOMException("This operation was aborted", "AbortError")) { const signal = new AbortSignal(); signal._abort(reason); return signal; }
    static timeout(ms) { const signal = new AbortSignal(); arm(() => signal._abort(new DOMException("The operation timed out", "TimeoutError")), ms, false, []); return signal; }
    _abort(reason) {
      if (this.aborted) return;
      this.aborted = true;
      this.reason = reason;
      this.onabort?.({ type: "abort", target: this });
      this.#events.emit("abort", { type: "abort", target: this });
    }
  }
  define("AbortSignal", AbortSignal);
  define("AbortController", class AbortController {
    signal = new AbortSignal();
    abort(reason = new DOMException("This operation was aborted", "AbortError")) { this.signal._abort(reason); }
  });

  // ---- fetch ---------------------------------------------------------------------------------------------------------------------
  class Headers {
    #values = new Map();
    constructor(init) {
      if (!init) return;
      const pairs = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
      for (const [name, value] of pairs) this.append(name, value);
    }
    static #name(name) {
      name = String(name).toLowerCase();
      if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) throw new TypeError(`Invalid header name: ${JSON.stringify(name)}`);
      return name;
    }
    static #value(value) {
      value = String(value).trim();
      if (/[\0\r\n]/.test(value)) throw new TypeError("A header's value may not hold a line break");
      return value;
    }
    append(name, value) { name = Headers.#name(name); const had = this.#values.get(name); value = Headers.#value(value); this.#values.set(name, had === undefined ? value : `${had}, ${value}`); }
    set(name, value) { this.#values.set(Headers.#name(name), Headers.#value(value)); }
    get(name) { return this.#values.get(Headers.#name(name)) ?? null; }
    has(name) { return this.#values.has(Headers.#name(name)); }
    delete(name) { this.#values.delete(Headers.#name(name)); }
    forEach(callback, self) { for (const [name, value] of this) callback.call(self, value, name, this); }
    *entries() { yield* [...this.#values].sort(([a], [b]) => a < b ? -1 : 1); }
    *keys() { for (const [name] of this.entries()) yield name; }
    *values() { for (const [, value] of this.entries()) yield value; }
    [Symbol.iterator]() { return this.entries(); }
  }
  const bodyOf = (body) => {
    if (body === undefined || body === null) return [undefined, null];
    if (typeof body === "string") return [host.encode(body.toWellFormed()), "text/plain;charset=UTF-8"];
    if (body instanceof URLSearchParams) return [host.encode(body.toString()), "application/x-www-form-urlencoded;charset=UTF-8"];
    const bytes = bytesOf(body);
    if (bytes) return [bytes, null];
    return [host.encode(String(body)), "text/plain;charset=UTF-8"];
  };
  class Body {
    #bytes; #used = false;
    constructor(bytes) { this.#bytes = bytes ?? new Uint8Array(); }
    get bodyUsed() { return this.#used; }
    #take() { if (this.#used) throw new TypeError("The body was read already"); this.#used = true; return this.#bytes; }
    async arrayBuffer() { return this.#take().slice().buffer; }
    async bytes() { return this.#take().slice(); }
    async text() { return new TextDecoder().decode(this.#take()); }
    async json() { return JSON.parse(await this.text()); }
  }
  class Response extends Body {
    constructor(body, { status = 200, statusText = "", headers, url = "" } = {}) {
      super(bodyOf(body)[0]);
      this.status = status;
      this.statusText = statusText;
      this.headers = new Headers(headers);
      this.url = url;
      this.redirected = false;
      this.type = "basic";
    }
    get ok() { return this.status >= 200 && this.status < 300; }
  }
  class Request extends Body {
    constructor(input, init = {}) {
      const [bytes, type] = bodyOf(init.body);
      super(bytes);
      this.url = String(new URL(input?.url ?? input));
      this.method = String(init.method ?? input?.method ?? "GET").toUpperCase();
      this.headers = new Headers(init.headers ?? input?.headers);
      this.signal = init.signal;
      this._bytes = bytes ?? input?._bytes;
      if (type && !this.headers.has("content-type")) this.headers.set("content-type", type);
    }
  }
  const exchange = (request) => {
    const url = new URL(request.url);
    const head = JSON.stringify({
      protocol: url.protocol, host: url.hostname, port: Number(url.port || ports[url.protocol] || 0), target: url.pathname + url.search,
      method: request.method, headers: [...request.headers],
    });
    const bytes = host.fetch(head, request._bytes);
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const reply = JSON.parse(host.decode(bytes.subarray(4, 4 + length)));
    return new Response(bytes.subarray(4 + length), { ...reply, url: request.url });
  };
  define("Headers", Headers);
  define("Response", Response);
  define("Request", Request);
  define("fetch", async (input, init) => {
    let request = new Request(input, init);
    for (let hops = 0; ; hops++) {
      request.signal?.throwIfAborted?.();
      const response = exchange(request);
      const location = response.headers.get("location");
      if (![301, 302, 303, 307, 308].includes(response.status) || !location || init?.redirect === "manual") return response;
      if (init?.redirect === "error" || hops >= 20) throw new TypeError(`fetch: ${request.url} redirects${hops >= 20 ? " too often" : ""}`);
      const again = response.status >= 307;
      request = new Request(new URL(location, request.url), {
        method: again || request.method === "HEAD" ? request.method : "GET", headers: request.headers, body: again ? request._bytes : undefined, signal: request.signal,
      });
    }
  });

  // ---- require -------------------------------------------------------------------------------------------------------------------
  const promisify = (callee) => (...values) => new Promise((resolve, reject) => callee(...values, (error, value) => error ? reject(error) : resolve(value)));
  // A script that carries files of its own tells here which: a function from a path to bytes, or to nothing.
  const carried = Symbol.for("teemate.files");
  const readFileSync = (path, options) => {
    const name = String(path instanceof URL ? path.pathname : path);
    const bytes = fs[carried]?.(name) ?? view(host.file(name));
    const encoding = typeof options === "string" ? options : options?.encoding;
    return encoding ? bytes.toString(encoding) : bytes;
  };
  const fs = {
    readFileSync,
    existsSync: (path) => { try { readFileSync(path); return true; } catch { return false; } },
    statSync: (path) => { const size = readFileSync(path).length; return { size, isFile: () => true, isDirectory: () => false }; },
    readFile: (path, options, done = options) => {
      let bytes;
      try { bytes = readFileSync(path, options === done ? undefined : options); } catch (error) { queueMicrotask(() => done(error)); return; }
      queueMicrotask(() => done(null, bytes));
    },
    promises: { readFile: async (path, options) => readFileSync(path, options) },
  };
  class Hash {
    #name; #parts = []; #done = false;
    constructor(name) { this.#name = String(name).toLowerCase().replace("-", ""); if (!["md5", "sha1", "sha256"].includes(this.#name)) throw new Error(`createHash: '${name}' is not there; md5, sha1 and sha256 are`); }
    update(data, encoding) {
      if (this.#done) throw new Error("Digest already called");
      const bytes = typeof data === "string" ? toBytes(data, encoding) : bytesOf(data);
      if (!bytes) throw new TypeError("update needs a string or bytes");
      this.#parts.push(bytes.slice());
      return this;
    }
    digest(encoding) {
      if (this.#done) throw new Error("Digest already called");
      this.#done = true;
      const digest = view(host.hash(this.#name, Buffer.concat(this.#parts)));
      return encoding ? digest.toString(encoding) : digest;
    }
  }
  class Hmac {
    #inner; #outer; #name;
    constructor(name, key) {
      this.#name = name;
      let bytes = typeof key === "string" ? toBytes(key) : bytesOf(key);
      if (bytes.length > 64) bytes = new Hash(name).update(bytes).digest();
      const pad = (value) => { const block = new Uint8Array(64).fill(value); bytes.forEach((byte, at) => { block[at] ^= byte; }); return block; };
      this.#inner = new Hash(name).update(pad(0x36));
      this.#outer = new Hash(name).update(pad(0x5c));
    }
    update(data, encoding) { this.#inner.update(data, encoding); return this; }
    digest(encoding) { return this.#outer.update(this.#inner.digest()).digest(encoding); }
  }
  const nodeCrypto = {
    ...crypto, webcrypto: crypto, createHash: (name) => new Hash(name), createHmac: (name, key) => new Hmac(name, key),
    randomBytes: (size) => { const bytes = Buffer.alloc(size); for (let at = 0; at < size; at += 65536) host.random(bytes.subarray(at, at + 65536)); return bytes; },
    randomInt: (low, high) => { if (high === undefined) { high = low; low = 0; } return low + Math.floor(crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32 * (high - low)); },
    timingSafeEqual: (a, b) => { if (a.length !== b.length) throw new RangeError("the lengths differ"); let differ = 0; for (let at = 0; at < a.length; at++) differ |= a[at] ^ b[at]; return differ === 0; },
    getHashes: () => ["md5", "sha1", "sha256"],
  };
  class Incoming extends EventEmitter {
    constructor(response, bytes) { super(); this.statusCode = response.status; this.statusMessage = response.statusText; this.headers = Object.fromEntries(response.headers); this._bytes = bytes; this._encoding = null; }
    setEncoding(encoding) { this._encoding = encoding; return this; }
    resume() { return this; }
    async *[Symbol.asyncIterator]() { yield this._encoding ? this._bytes.toString(this._encoding) : this._bytes; }
  }
  class Outgoing extends EventEmitter {
    #options; #parts = []; #headers;
    constructor(options) { super(); this.#options = options; this.#headers = { ...options.headers }; }
    setHeader(name, value) { this.#headers[name] = value; }
    setTimeout() { return this; }
    destroy() { return this; }
    abort() {}
    write(data, encoding) { this.#parts.push(typeof data === "string" ? toBytes(data, encoding) : bytesOf(data)); return true; }
    end(data, encoding) {
      if (data !== undefined && typeof data !== "function") this.write(data, encoding);
      const { url, method } = this.#options;
      const body = this.#parts.length ? Buffer.concat(this.#parts) : undefined;
      fetch(url, { method, headers: this.#headers, body, redirect: "manual" }).then(async (response) => {
        const incoming = new Incoming(response, view(await response.bytes()));
        this.emit("response", incoming);
        queueMicrotask(() => {
          if (incoming._bytes.length) incoming.emit("data", incoming._encoding ? incoming._bytes.toString(incoming._encoding) : incoming._bytes);
          incoming.emit("end");
          incoming.emit("close");
        });
      }).catch((error) => this.emit("error", error));
      return this;
    }
  }
  const httpModule = (protocol) => {
    const request = (first, second, third) => {
      let options = typeof first === "string" || first instanceof URL ? { url: String(first), ...(typeof second === "object" ? second : {}) } : { ...first };
      const done = [second, third].find((each) => typeof each === "function");
      if (!options.url) {
        const name = options.hostname ?? String(options.host ?? "localhost").replace(/:\d+$/, "");
        options.url = `${options.protocol ?? protocol}//${name}${options.port ? ":" + options.port : ""}${options.path ?? "/"}`;
      }
      const outgoing = new Outgoing({ ...options, method: options.method ?? "GET" });
      if (done) outgoing.on("response", done);
      return outgoing;
    };
    return { request, get: (...values) => request(...values).end(), Agent: class Agent {}, globalAgent: {} };
  };
  const util = {
    inspect: (value) => inspect(value, 1), format, promisify, inherits: (child, parent) => Object.setPrototypeOf(child.prototype, parent.prototype),
    types: { isPromise: (it) => it instanceof Promise, isDate: (it) => it instanceof Date, isRegExp: (it) => it instanceof RegExp },
    isDeepStrictEqual: (a, b) => { try { deepEqual(a, b); return true; } catch { return false; } },
    TextEncoder: global.TextEncoder, TextDecoder: global.TextDecoder,
  };
  const assert = (ok, message = "assertion failed") => { if (!ok) throw message instanceof Error ? message : new Error(message); };
  const deepEqual = (a, b, message) => assert(inspect(a, -100) === inspect(b, -100), message ?? `${inspect(a, 1)} is not ${inspect(b, 1)}`);
  Object.assign(assert, {
    ok: assert, equal: (a, b, m) => assert(a == b, m ?? `${inspect(a, 1)} != ${inspect(b, 1)}`),
    strictEqual: (a, b, m) => assert(Object.is(a, b), m ?? `${inspect(a, 1)} !== ${inspect(b, 1)}`),
    notStrictEqual: (a, b, m) => assert(!Object.is(a, b), m), deepEqual, deepStrictEqual: deepEqual,
    throws: (call, m) => { try { call(); } catch { return; } assert(false, m ?? "nothing was thrown"); },
  });
  const path = {
    sep: "/", delimiter: ":", normalize: (text) => straighten(text.startsWith("/") ? text : "/" + text).slice(text.startsWith("/") ? 0 : 1) || ".",
    join: (...parts) => path.normalize(parts.filter(Boolean).join("/")),
    resolve: (...parts) => { let whole = ""; for (const part of parts) whole = part.startsWith("/") ? part : `${whole}/${part}`; return straighten(whole.startsWith("/") ? whole : "/" + whole).replace(/(.)\/$/, "$1"); },
    basename: (text, ending = "") => { const name = text.replace(/\/+$/, "").split("/").pop(); return ending && name.endsWith(ending) ? name.slice(0, -ending.length) : name; },
    dirname: (text) => text.replace(/\/[^/]*\/*$/, "") || (text.startsWith("/") ? "/" : "."),
    extname: (text) => /[^./](\.[^./]*)$/.exec(text)?.[1] ?? "", isAbsolute: (text) => text.startsWith("/"),
  };
  const querystring = { parse: (text) => Object.fromEntries(new URLSearchParams(text)), stringify: (it) => new URLSearchParams(it).toString(), escape: encodeURIComponent, unescape: decodeURIComponent };
  const urlModule = { URL, URLSearchParams, parse: (text) => { const it = new URL(text, "http://localhost"); return { protocol: it.protocol, host: it.host, hostname: it.hostname, port: it.port || null, pathname: it.pathname, path: it.pathname + it.search, search: it.search, query: it.search.slice(1), hash: it.hash, href: it.href }; }, format: String, fileURLToPath: (it) => new URL(it).pathname };
  const modules = {
    fs, crypto: nodeCrypto, http: httpModule("http:"), https: httpModule("https:"), url: urlModule, util, events: EventEmitter, assert, path, querystring,
    buffer: { Buffer }, process: global.process, "fs/promises": fs.promises, timers: { setTimeout, setInterval, clearTimeout, clearInterval, setImmediate },
    "timers/promises": { setTimeout: (ms, value) => new Promise((resolve) => arm(resolve, ms, false, [value])) },
    os: { EOL: "\n", platform: () => "teemate", cpus: () => [{}], hostname: () => "teemate", tmpdir: () => "/tmp", totalmem: () => 0, freemem: () => 0 },
    perf_hooks: { performance: global.performance }, string_decoder: {}, stream: { EventEmitter },
  };
  define("require", (name) => {
    const key = String(name).replace(/^node:/, "");
    if (Object.hasOwn(modules, key)) return modules[key];
    throw Object.assign(new Error(`Cannot find module '${name}': a function is one file; of Node's own modules there are ${Object.keys(modules).join(", ")}`), { code: "MODULE_NOT_FOUND" });
  });
  define("module", { exports: {} });
  define("exports", global.module.exports);
  define("global", global);
  define("self", global);

  // ---- what engine.c calls -------------------------------------------------------------------------------------------------------
  const evaluate = global.eval;
  const find = (name) => {
    let at = global.module.exports;
    if (typeof at === "function" && (name === "main" || name === at.name)) return at;
    for (const part of name.split(".")) at = at?.[part];
    if (typeof at === "function") return at;
    at = global.exports;
    for (const part of name.split(".")) at = at?.[part];
    if (typeof at === "function") return at;
    if (/^[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*$/.test(name)) {
      // A `const main = ...` at the top is no property of the global object.
      const value = evaluate(`typeof ${name.split(".")[0]} === "undefined" ? undefined : ${name.replaceAll(".", "?.")}`);
      if (typeof value === "function") return value;
    }
    throw new TypeError(`the script has no function '${name}': define function ${name}(params) or set exports.${name}`);
  };
  const check = (result) => {
    if (result === undefined) return "{}";
    if (typeof result !== "object" || result === null || Array.isArray(result)) throw new NotADictionary();
    const text = JSON.stringify(result);
    if (typeof text !== "string" || text[0] !== "{") throw new NotADictionary();
    return text;
  };
  class NotADictionary extends Error {}
  const call = (name, parameters) => {
    const result = find(name)(parameters);
    if (typeof result?.then === "function") return Promise.resolve(result).then(check);
    return check(result);
  };
  // A letter for the kind of the failure and the failure itself as JSON.
  const describe = (error) => {
    if (error instanceof NotADictionary) return "d{}";
    let message = "", stack = "", kind = "";
    try {
      message = error instanceof Error ? String(error) : typeof error === "string" ? error : inspect(error, 1);
      if (error instanceof Error) { stack = String(error.stack ?? ""); kind = String(error.teemate ?? ""); if (kind) message = String(error.message); }
    } catch { message = "the error could not be shown"; }
    return (/^[DILA]$/.test(kind) ? kind : "a") + JSON.stringify({ message: message.toWellFormed(), stack: stack.toWellFormed() });
  };
  const setEnvironment = (text) => { environmentText = text; environment = null; };
  return { call, describe, fire, environment: setEnvironment };
})
