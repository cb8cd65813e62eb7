(() => {
  // Modules of a zip action: each file is a function of its own, and `require` finds them as Node would.
  const loaded = Object.create(null);
  const outer = globalThis.require;
  const straighten = (path) => {
    const parts = [];
    for (const part of path.split("/")) {
      if (part === "..") parts.pop();
      else if (part && part !== ".") parts.push(part);
    }
    return parts.join("/");
  };
  const asFile = (path) => [path, `${path}.js`, `${path}.cjs`, `${path}.json`].find((it) => Object.hasOwn(files, it));
  const asFolder = (path) => {
    const root = path ? `${path}/` : "";
    if (Object.hasOwn(files, `${root}package.json`)) {
      let main;
      try { main = JSON.parse(files[`${root}package.json`]).main; } catch { main = undefined; }
      if (typeof main === "string") {
        const target = straighten(root + main);
        const found = asFile(target) ?? asFile(`${target}/index`);
        if (found) return found;
      }
    }
    return asFile(`${root}index`);
  };
  const resolve = (from, name) => {
    if (/^\.{0,2}\//.test(name) || name === "." || name === "..") {
      const path = straighten(name.startsWith("/") ? name : `${from}/${name}`);
      return asFile(path) ?? asFolder(path);
    }
    for (let folder = from; ; folder = folder.includes("/") ? folder.slice(0, folder.lastIndexOf("/")) : "") {
      const path = `${folder ? `${folder}/` : ""}node_modules/${name}`;
      const found = asFile(path) ?? asFolder(path);
      if (found || !folder) return found;
    }
  };
  const load = (path) => {
    if (loaded[path]) return loaded[path].exports;
    const it = loaded[path] = { exports: {}, id: path, filename: `/${path}`, loaded: false };
    const content = files[path];
    if (typeof content === "string") {
      it.exports = JSON.parse(content);
    } else {
      const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
      const local = (name) => {
        const found = resolve(folder, String(name));
        if (found) return load(found);
        if (/^\.{0,2}\//.test(name)) throw Object.assign(new Error(`Cannot find module '${name}' from '/${path}'`), { code: "MODULE_NOT_FOUND" });
        return outer(name);
      };
      local.resolve = (name) => `/${resolve(folder, String(name)) ?? name}`;
      local.cache = loaded;
      content.call(it.exports, it.exports, local, it, `/${path}`, `/${folder}`);
    }
    it.loaded = true;
    return it.exports;
  };
  // Everything else of the archive is read as files: relative to its root, which is the root.
  require("fs")[Symbol.for("teemate.files")] = (path) => {
    const name = straighten(path);
    if (Object.hasOwn(data, name)) return Buffer.from(data[name], "base64");
    if (typeof files[name] === "string") return Buffer.from(files[name]);
  };
  const entry = $ENTRY;
  module.exports = load(entry === null ? asFolder("") : entry);
})();
