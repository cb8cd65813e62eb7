// Waits as many seconds as it is told.
async function main({ sleep = 1 }) {
  await new Promise((resolve) => setTimeout(resolve, sleep * 1000));
  return { result: sleep };
}
