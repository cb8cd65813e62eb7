// MD5 (RFC 1321) in JavaScript, of a text that is doubled four times.
const shifts = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
const sines = Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32) | 0);

function md5(bytes) {
  const blocks = (bytes.length + 8 >> 6) + 1;
  const words = new Int32Array(blocks * 16);
  for (let i = 0; i < bytes.length; i++) words[i >> 2] |= bytes[i] << (i % 4) * 8;
  words[bytes.length >> 2] |= 0x80 << (bytes.length % 4) * 8;
  words[blocks * 16 - 2] = bytes.length << 3;
  words[blocks * 16 - 1] = bytes.length / 2 ** 29;
  let a = 0x67452301, b = 0xefcdab89 | 0, c = 0x98badcfe | 0, d = 0x10325476;
  for (let block = 0; block < words.length; block += 16) {
    const before = [a, b, c, d];
    for (let i = 0; i < 64; i++) {
      const round = i >> 4;
      let mixed, word;
      if (round === 0) { mixed = b & c | ~b & d; word = i; }
      else if (round === 1) { mixed = d & b | ~d & c; word = 5 * i + 1 & 15; }
      else if (round === 2) { mixed = b ^ c ^ d; word = 3 * i + 5 & 15; }
      else { mixed = c ^ (b | ~d); word = 7 * i & 15; }
      const turned = a + mixed + sines[i] + words[block + word] | 0;
      const by = shifts[round][i & 3];
      a = d;
      d = c;
      c = b;
      b = b + (turned << by | turned >>> 32 - by) | 0;
    }
    a = a + before[0] | 0;
    b = b + before[1] | 0;
    c = c + before[2] | 0;
    d = d + before[3] | 0;
  }
  return [a, b, c, d].map((word) => [0, 8, 16, 24].map((by) => (word >>> by & 255).toString(16).padStart(2, "0")).join("")).join("");
}

const sentence = "An enclave holds its pages and its threads; a container holds a process, its namespaces and its share of the machine. "
  + "Nothing says that there must be one of the first for each of the second. ";

function main({ text = sentence.repeat(6).slice(0, 989), doublings = 4 }) {
  for (let i = 0; i < doublings; i++) text += text;
  return { length: text.length, md5: md5(new TextEncoder().encode(text)) };
}
