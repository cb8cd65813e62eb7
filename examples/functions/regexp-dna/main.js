// Regular expressions over DNA, after the Computer Language Benchmarks Game: the sequences of its program `fasta`, three times over.
const alu = "GGCCGGGCGCGGTGGCTCACGCCTGTAATCCCAGCACTTTGGGAGGCCGAGGCGGGCGGATCACCTGAGGTCAGGAGTTCGAGACCAGCCTGGCCAACATGGTGAAACCCCGTCTCTACTAAAAATACAAAAATTAGCCGGGCGTGGTGGCGCGCGCCTGTAATCCCAGCTACTCGGGAGGCTGAGGCAGGAGAATCGCTTGAACCCGGGAGGCGGAGGTTGCAGTGAGCCGAGATCGCGCCACTGCACTCCAGCCTGGGCGACAGAGCGAGACTCCGTCTCAAAAA";
const iub = { a: 0.27, c: 0.12, g: 0.12, t: 0.27, B: 0.02, D: 0.02, H: 0.02, K: 0.02, M: 0.02, N: 0.02, R: 0.02, S: 0.02, V: 0.02, W: 0.02, Y: 0.02 };
const human = { a: 0.3029549426680, c: 0.1979883004921, g: 0.1975473066391, t: 0.3015094502008 };

const lines = (text) => text.replace(/.{60}/g, "$&\n").replace(/\n?$/, "\n");

function fasta(n) {
  let seed = 42;
  const random = () => (seed = (seed * 3877 + 29573) % 139968) / 139968;
  const pick = (table, length) => {
    let sum = 0;
    const steps = Object.entries(table).map(([letter, share]) => [letter, sum += share]);
    const last = steps[steps.length - 1][0];
    let text = "";
    for (let i = 0; i < length; i++) {
      const at = random();
      let letter = last;
      for (const [each, upto] of steps) if (at < upto) { letter = each; break; }
      text += letter;
    }
    return text;
  };
  return ">ONE Homo sapiens alu\n" + lines(alu.repeat(Math.ceil(2 * n / alu.length)).slice(0, 2 * n))
    + ">TWO IUB ambiguity codes\n" + lines(pick(iub, 3 * n))
    + ">THREE Homo sapiens frequency\n" + lines(pick(human, 5 * n));
}

const patterns = [
  /agggtaaa|tttaccct/ig, /[cgt]gggtaaa|tttaccc[acg]/ig, /a[act]ggtaaa|tttacc[agt]t/ig, /ag[act]gtaaa|tttac[agt]ct/ig, /agg[act]taaa|ttta[agt]cct/ig,
  /aggg[acg]aaa|ttt[cgt]ccct/ig, /agggt[cgt]aa|tt[acg]accct/ig, /agggta[cgt]a|t[acg]taccct/ig, /agggtaa[cgt]|[acg]ttaccct/ig,
];
const codes = {
  B: "(c|g|t)", D: "(a|g|t)", H: "(a|c|t)", K: "(g|t)", M: "(a|c)", N: "(a|c|g|t)", R: "(a|g)", S: "(c|g)", V: "(a|c|g)", W: "(a|t)", Y: "(c|t)",
};

function main({ n = 10000 }) {
  let dna = fasta(n).repeat(3);
  dna = dna.replace(/>.*\n|\n/g, "");
  const bases = dna.length;
  const counts = patterns.map((pattern) => (dna.match(pattern) ?? []).length);
  // The first of each code, as the original of this test does it.
  for (const [code, letters] of Object.entries(codes)) dna = dna.replace(code, letters);
  return { bases, counts, after: dna.length };
}
