// The smallest function in JavaScript.
function main({ name = "world" }) {
  return { hello: name };
}
