// Partial sums of nine series, after the Computer Language Benchmarks Game; the answer adds four of them, over all sizes.
function partial(n) {
  let a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0, a8 = 0, a9 = 0, sign = -1;
  const third = 2 / 3;
  for (let k = 1; k <= n; k++) {
    const k2 = k * k, k3 = k2 * k, s = Math.sin(k), c = Math.cos(k);
    sign = -sign;
    a1 += Math.pow(third, k - 1);
    a2 += Math.pow(k, -0.5);
    a3 += 1 / (k * (k + 1));
    a4 += 1 / (k3 * s * s);
    a5 += 1 / (k3 * c * c);
    a6 += 1 / k;
    a7 += 1 / k2;
    a8 += sign / k;
    a9 += sign / (2 * k - 1);
  }
  return [a1, a2, a3, a4, a5, a6, a7, a8, a9];
}

function main({ from = 1024, to = 16384 }) {
  let total = 0;
  for (let n = from; n <= to; n *= 2) {
    const sums = partial(n);
    total += sums[5] + sums[6] + sums[7] + sums[8];
  }
  return { total };
}
