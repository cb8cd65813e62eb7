
;(() => {
  "use strict";
  // How OpenWhisk's Node runtime calls an action, where this engine by itself differs: a rejected promise is a result with `error`, not a
  // failure; arrays go in and come out (boxed, as the engine takes objects only); what goes to stderr is marked for the log.
  const BOX = "\u001earray", READY = "\u001eready", MARK = "\u001e";
  const name = $MAIN;
  const at = (root, path) => path.reduce((it, part) => it?.[part], root);
  const find = () => {
    const exported = typeof module === "object" && module ? module.exports : undefined;
    if (typeof exported === "function" && (name === "main" || name === exported.name)) return exported;
    const path = name.split(".");
    for (const root of [exported, typeof exports === "object" ? exports : undefined]) {
      const it = at(root, path);
      if (typeof it === "function") return it;
    }
    if (path.every((part) => /^[A-Za-z_$][\w$]*$/.test(part))) {
      let it;
      try { it = at((0, eval)(path[0]), path.slice(1)); } catch { it = undefined; }
      if (typeof it === "function") return it;
    }
    throw new Error(`${MARK}Action entrypoint '${name}' is not a function.`);
  };
  const plain = (error, seen = []) => {
    if (typeof error === "function") return `[Function: ${error.name || "anonymous"}]`;
    if (typeof error === "bigint") return String(error);
    if (typeof error !== "object" || error === null) return error;
    if (seen.includes(error)) return "[Circular]";
    if (typeof error.toJSON === "function") return error.toJSON();
    const inner = [...seen, error];
    if (Array.isArray(error)) return error.map((it) => plain(it, inner));
    const copy = {};
    for (const key of Object.keys(error)) copy[key] = plain(error[key], inner);
    if (error instanceof Error) {
      for (const key of ["name", "message", "stack", "code"]) if (typeof error[key] === "string") copy[key] = error[key];
    }
    return copy;
  };
  const boxed = (result) => Array.isArray(result) ? { [BOX]: result } : result;
  const print = console.log;
  const toStderr = (...values) => print(MARK + require("util").format(...values).replaceAll("\n", "\n" + MARK));
  Object.assign(console, { error: toStderr, warn: toStderr });
  if (typeof process === "object" && process.stderr) process.stderr.write = (text) => process.stdout.write(MARK + text);
  Object.defineProperty(globalThis, "__teemate_entry", {
    value: (params) => {
      const main = find();
      if (Object.hasOwn(params, READY)) return {};
      const result = main(Object.hasOwn(params, BOX) ? params[BOX] : params);
      if (typeof result?.then !== "function") return boxed(result);
      return Promise.resolve(result).then(boxed, (error) => ({ error: error ? plain(error) : {} }));
    },
  });
})();
