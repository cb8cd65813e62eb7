// Loaded before Apache's runtime, which listens on TCP port 8080: it then listens on the unix socket of $SOCKET, as server.js does.
"use strict";
const { Server } = require("net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, process.env.SOCKET, ...rest.filter((each) => typeof each === "function"));
};
