// Takes memory until there is none.
function main() {
  const held = [];
  for (;;) held.push(new Uint8Array(1 << 20).fill(7));
}
