// An action runtime as OpenWhisk's invoker expects it: POST /init once, then POST /run, one call at a time.
// It listens on the unix socket of $SOCKET (or on $PORT), so that the benchmark needs no virtual network; that favours this runtime.
"use strict";
const http = require("http");

let action = null;
let running = false;

const fail = (code, error) => ({ code, body: { error } });

function init({ value = {} }) {
  if (action) return fail(403, "Cannot initialize the action more than once.");
  if (!value.code) return fail(403, "Missing main/no code to execute.");
  const main = value.main || "main";
  try {
    const source = `${value.code}\n;return typeof ${main} === "function" ? ${main} : exports.${main};`;
    const module = { exports: {} };
    action = new Function("require", "module", "exports", source)(require, module, module.exports);
    Object.assign(process.env, value.env);
  } catch (error) {
    return fail(502, `Initialization has failed due to: ${error.stack}`);
  }
  return typeof action === "function" ? { code: 200, body: { OK: true } } : fail(502, `Initialization has failed due to: there is no function ${main}.`);
}

async function run({ value = {}, ...rest }) {
  if (!action) return fail(403, "System not initialized.");
  if (running) return fail(403, "System not ready, status is running.");
  running = true;
  for (const [key, text] of Object.entries(rest)) process.env[`__OW_${key.toUpperCase()}`] = text;
  try {
    const result = await action(value);
    const good = typeof result === "object" && result !== null;
    return good ? { code: 200, body: result } : fail(502, "The action did not return a dictionary.");
  } catch (error) {
    return fail(502, `An error has occurred: ${error && error.stack}`);
  } finally {
    running = false;
    const end = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n";
    process.stdout.write(end);
    process.stderr.write(end);
  }
}

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", async () => {
    let answer;
    try {
      const message = JSON.parse(Buffer.concat(pieces).toString() || "{}");
      const handler = { "/init": init, "/run": run }[request.url];
      answer = request.method === "POST" && handler ? await handler(message) : fail(404, "Not found.");
    } catch (error) {
      answer = fail(400, String(error));
    }
    const text = JSON.stringify(answer.body);
    response.writeHead(answer.code, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text), Connection: "close" });
    response.end(text);
  });
});
server.listen(process.env.SOCKET || Number(process.env.PORT || 8080));
