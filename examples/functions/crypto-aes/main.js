// AES-256 in counter mode with its own key schedule (FIPS 197, SP 800-38A): a text is encrypted and decrypted again.
const sbox = new Uint8Array(256);
{
  // The inverse in GF(2^8) by walking the powers of 3 and of its inverse, then the affine map.
  let p = 1, q = 1;
  do {
    p = p ^ p << 1 & 255 ^ (p & 128 ? 27 : 0);
    q ^= q << 1;
    q ^= q << 2;
    q ^= q << 4;
    q &= 255;
    if (q & 128) q ^= 9;
    const turn = (by) => q << by & 255 | q >> 8 - by;
    sbox[p] = q ^ turn(1) ^ turn(2) ^ turn(3) ^ turn(4) ^ 99;
  } while (p !== 1);
  sbox[0] = 99;
}
const double = (byte) => byte << 1 & 255 ^ (byte & 128 ? 27 : 0);

function schedule(key) {
  const words = key.length / 4, rounds = words + 6;
  const expanded = new Uint8Array(16 * (rounds + 1));
  expanded.set(key);
  for (let i = words, round = 1; i < 4 * (rounds + 1); i++) {
    let word = Array.from(expanded.subarray(4 * i - 4, 4 * i));
    if (i % words === 0) {
      word = [word[1], word[2], word[3], word[0]].map((byte) => sbox[byte]);
      word[0] ^= round;
      round = double(round);
    } else if (words > 6 && i % words === 4) word = word.map((byte) => sbox[byte]);
    for (let j = 0; j < 4; j++) expanded[4 * i + j] = expanded[4 * (i - words) + j] ^ word[j];
  }
  return expanded;
}

function encrypt(block, keys) {
  const rounds = keys.length / 16 - 1;
  let state = block.map((byte, i) => byte ^ keys[i]);
  const next = new Uint8Array(16);
  for (let round = 1; round <= rounds; round++) {
    for (let column = 0; column < 4; column++) {
      const [a, b, c, d] = [0, 1, 2, 3].map((row) => sbox[state[(4 * (column + row) + row) % 16]]);
      const all = a ^ b ^ c ^ d, last = round === rounds;
      next[4 * column] = last ? a : a ^ all ^ double(a ^ b);
      next[4 * column + 1] = last ? b : b ^ all ^ double(b ^ c);
      next[4 * column + 2] = last ? c : c ^ all ^ double(c ^ d);
      next[4 * column + 3] = last ? d : d ^ all ^ double(d ^ a);
    }
    for (let i = 0; i < 16; i++) state[i] = next[i] ^ keys[16 * round + i];
  }
  return state;
}

function counter(bytes, keys, nonce) {
  const out = new Uint8Array(bytes.length), block = new Uint8Array(16);
  block.set(nonce);
  for (let at = 0, count = 1; at < bytes.length; at += 16, count++) {
    new DataView(block.buffer).setUint32(12, count);
    const pad = encrypt(block, keys);
    for (let i = 0; i < 16 && at + i < bytes.length; i++) out[at + i] = bytes[at + i] ^ pad[i];
  }
  return out;
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const sentence = "Whoever owns the machine may stop a function, delay it or kill it; whoever owns the machine may not read it. ";

function main({ text = sentence.repeat(12).slice(0, 1300), password = "a password of the function's owner" }) {
  const vector = encrypt(Uint8Array.from({ length: 16 }, (_, i) => i * 17), schedule(Uint8Array.from({ length: 32 }, (_, i) => i)));
  // The key is the password's bytes, encrypted under themselves.
  const seed = new Uint8Array(32);
  seed.set(new TextEncoder().encode(password).subarray(0, 32));
  const half = encrypt(seed.subarray(0, 16), schedule(seed));
  const keys = schedule(Uint8Array.from([...half, ...half]));
  const nonce = crypto.getRandomValues(new Uint8Array(12));
  const plain = new TextEncoder().encode(text);
  const secret = counter(plain, keys, nonce);
  const again = new TextDecoder().decode(counter(secret, keys, nonce));
  return { bytes: plain.length, vector: hex(vector), same: again === text, hidden: hex(secret) !== hex(plain) };
}
