// Binary trees, after the Computer Language Benchmarks Game: allocate many trees, walk them, sum what their nodes hold.
// The sum of one tree is its item, plus that of the left child, minus that of the right.
const tree = (item, depth) => depth === 0
  ? { item, left: null, right: null }
  : { item, left: tree(2 * item - 1, depth - 1), right: tree(2 * item, depth - 1) };
const sum = ({ item, left, right }) => left === null ? item : item + sum(left) - sum(right);

function trees(n) {
  const shortest = 4, deepest = Math.max(shortest + 2, n);
  sum(tree(0, deepest + 1));
  const kept = tree(0, deepest);
  for (let depth = shortest; depth <= deepest; depth += 2) {
    const count = 1 << (deepest - depth + shortest);
    let walked = 0;
    for (let i = 1; i <= count; i++) walked += sum(tree(i, depth)) + sum(tree(-i, depth));
    // A pair of trees of items i and -i sums to -2.
    if (walked !== -2 * count) throw new Error(`${count} pairs of trees of depth ${depth} sum to ${walked}`);
  }
  return sum(kept);
}

// The input's key says which sizes: {"n": [4, 5, 6, 7]}. The answer is the sum of the trees that were kept all the while.
function main({ n = [4, 5, 6, 7] }) {
  return { checksum: n.map(trees).reduce((a, b) => a + b, 0) };
}
