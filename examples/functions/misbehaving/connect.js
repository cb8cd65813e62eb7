// Connects where it may not.
async function main() {
  const response = await fetch("http://169.254.169.254/latest/meta-data/");
  return { text: await response.text() };
}
