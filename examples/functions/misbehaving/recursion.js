// Recurses without end.
const down = (n) => down(n + 1) + 1;
function main() {
  return { depth: down(0) };
}
