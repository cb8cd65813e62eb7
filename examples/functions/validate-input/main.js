// Validates input of a form: random e-mail addresses and ZIP codes, every other one malformed.
const letters = "abcdefghijklmnopqrstuvwxyz", digits = "0123456789";
const pick = (from) => from[Math.floor(Math.random() * from.length)];
const word = (from, least, most) => Array.from({ length: least + Math.floor(Math.random() * (most - least + 1)) }, () => pick(from)).join("");

const email = /^[a-z0-9]+(?:[._-][a-z0-9]+)*@[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+)*\.[a-z]{2,6}$/i;
const zip = /^\d{5}(?:-\d{4})?$/;

const goodEmail = () => `${word(letters, 1, 8)}${pick(["", ".", "_"])}${word(letters + digits, 1, 8)}@${word(letters, 2, 10)}.${pick(["com", "org", "net", "co.uk", "info"])}`;
const badEmail = () => goodEmail().replace(...pick([["@", ""], ["@", "@@"], [/\.[a-z]+$/, "."], [/^/, "("], ["@", "@."]]));
const goodZip = () => word(digits, 5, 5) + pick(["", "-" + word(digits, 4, 4)]);
const badZip = () => pick([word(digits, 1, 4), word(digits, 6, 8), word(digits, 4, 4) + pick(letters), word(digits, 5, 5) + "-"]);

function main({ count = 4000 }) {
  let valid = 0, invalid = 0, zips = 0;
  for (let i = 0; i < count; i++) {
    if (email.test(i % 2 ? badEmail() : goodEmail())) valid++; else invalid++;
    if (zip.test(i % 2 ? badZip() : goodZip())) zips++;
  }
  return { valid_emails: valid, invalid_emails: invalid, valid_zips: zips };
}
