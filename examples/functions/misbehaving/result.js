// Returns more than it may.
function main() {
  return { text: "x".repeat(4 << 20) };
}
