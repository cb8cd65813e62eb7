// Reads a file that it may not.
function main() {
  return { text: require("fs").readFileSync("/etc/passwd", "utf8") };
}
