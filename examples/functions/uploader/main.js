// Puts a file of its container into an object store, over HTTP.
const crypto = require("crypto");
const fs = require("fs");

async function main({ file, url }) {
  const content = fs.readFileSync(file);
  const response = await fetch(url, { method: "PUT", headers: { "content-type": "application/octet-stream" }, body: content });
  if (!response.ok) throw new Error(`the store answers ${response.status} ${response.statusText} to PUT ${url}`);
  return { url, bytes: content.length, sha256: crypto.createHash("sha256").update(content).digest("hex") };
}
