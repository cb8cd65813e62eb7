// Floods its log.
function main() {
  for (;;) console.log("x".repeat(10000));
}
