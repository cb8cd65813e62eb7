// Expressions and texts at random: what the filter and the automaton of engine/regexp.c find, and what patterns.c makes of it, must be what
// trying each position with QuickJS-ng's own matcher gives.
let seed = 0;
const rnd = (n) => { seed = (Math.imul(seed, 1103515245) + 12345) >>> 0; return (seed >>> 8) % n; };
const pick = (a) => a[rnd(a.length)];
function atom(d) {
  switch (rnd(d > 2 ? 9 : 14)) {
    case 0: case 1: case 2: case 3: return pick(["a","b","c","A","B","é","É","ß","k","K","s","\u017f","Ω","\\u212a"]);
    case 4: return pick(["[ab]","[^a]","[a-c]","[^]","[A-Zé]","[\\u0100-\\u0200a]","\\d","\\w","\\s","\\W","\\S","[^\\n]"]);
    case 5: return ".";
    case 6: return pick(["^","$","\\b","\\B"]);
    case 7: return pick(["\\1","\\2"]);
    case 8: return pick(["ab","ba","abc"]);
    case 9: return "(" + alt(d+1) + ")";
    case 10: return "(?:" + alt(d+1) + ")";
    case 11: return pick(["(?=","(?!","(?<=","(?<!"]) + alt(d+1) + ")";
    case 12: return "(" + alt(d+1) + ")" ;
    default: return "(?:" + alt(3) + ")" + pick(["?","{0,2}","{1,2}?"]);
  }
}
function term(d) { let t = atom(d); if (!/^(\^|\$|\\b|\\B|\(\?[=!<])/.test(t) && rnd(3) === 0) t += pick(["?","*","+","*?","+?","??","{2}","{1,3}","{0}","{3,}","{2,}?","{0,2}","{1,4}?"]); return t; }
function seq(d) { let t = ""; const n = 1 + rnd(4); for (let i = 0; i < n; i++) t += term(d); return t; }
function alt(d) { let t = seq(d); while (rnd(4) === 0) t += "|" + (rnd(8) ? seq(d) : ""); return t; }
function text(n) { let t = ""; const set = pick([["a","b"],["a","b","c","A","\n"," "],["a","b","é","É","ß","k","s"],["a","Ω","\u017f","\u212a","k","K","b"],["a","\ud83d\ude00","b","\ud83d","\ude00"]]); for (let i = 0; i < n; i++) t += pick(set); return t; }
// By sticky expressions that are new: the engine takes ways of its own only with one that is used often, or with a search of much text.
const FEW = 8;
function* attempts(source, flags, text, from) {
  let sticky, uses = FEW;
  for (let at = from; at <= text.length; at++) {
    if (uses++ === FEW) { sticky = new RegExp(source, flags.replace(/[gy]/g, "") + "y"); uses = 1; }
    sticky.lastIndex = at;
    yield sticky.exec(text);
  }
}
// The first match from `from` on.
function slowly(source, flags, text, from) {
  for (const match of attempts(source, flags, text, from)) {
    if (match) return match;
    if (flags.includes("y")) return null;
  }
  return null;
}
const told = (match) => match && JSON.stringify([match.index, ...match]);
const after = (text, at, flags) => at + (flags.includes("u") && text.codePointAt(at) > 0xffff ? 2 : 1);
function all(source, flags, text) {
  const matches = [];
  for (let at = 0; at <= text.length;) {
    const match = slowly(source, flags, text, at);
    if (!match) break;
    matches.push(match);
    const end = match.index + match[0].length;
    at = match[0] ? end : after(text, end, flags);
  }
  return matches;
}
function replaced(matches, text, template) {
  let out = "", last = 0;
  for (const match of matches) {
    out += text.slice(last, match.index);
    last = match.index + match[0].length;
    out += template.replaceAll(/\$(\$|&|`|'|[0-9]{1,2})/g, (whole, what) => {
      if (what === "$") return "$";
      if (what === "&") return match[0];
      if (what === "`") return text.slice(0, match.index);
      if (what === "'") return text.slice(last);
      for (const digits of [2, 1]) {
        const group = Number(what.slice(0, digits));
        if (what.length >= digits && group >= 1 && group < match.length) return (match[group] ?? "") + what.slice(digits);
      }
      return whole;
    });
  }
  return out + text.slice(last);
}

function compare(source, flags, expression, text, from) {
  const searches = /[gy]/.test(flags);
  const slow = slowly(source, flags, text, searches ? from : 0);
  const end = slow ? slow.index + slow[0].length : 0;
  const wrong = (what, quick, slow) => ({ what, source, flags, text, from, quick, slow });
  expression.lastIndex = from;
  const quick = told(expression.exec(text));
  if (quick !== told(slow)) return wrong("exec", quick, told(slow));
  if (expression.lastIndex !== (searches ? end : from)) return wrong("exec's lastIndex", expression.lastIndex, end);
  expression.lastIndex = from;
  if (expression.test(text) !== !!slow) return wrong("test", !slow, !!slow);
  if (expression.lastIndex !== (searches ? end : from)) return wrong("test's lastIndex", expression.lastIndex, end);
  const matches = flags.includes("g") ? all(source, flags, text) : slowly(source, flags, text, flags.includes("y") ? from : 0);
  expression.lastIndex = from;
  const match = text.match(expression);
  const listed = flags.includes("g") ? JSON.stringify(match) : told(match);
  const wanted = flags.includes("g") ? JSON.stringify(matches.length ? matches.map((match) => match[0]) : null) : told(matches);
  if (listed !== wanted) return wrong("match", listed, wanted);
  expression.lastIndex = from;
  const template = pick(["", "-", "<$&>", "$1$2", "$$$`|$'$", "$01$12$3"]);
  const [made, expected] = [text.replace(expression, template), replaced(flags.includes("g") ? matches : matches ? [matches] : [], text, template)];
  if (made !== expected) return wrong("replace by " + template, made, expected);
  if (expression.lastIndex !== (flags.includes("g") ? 0 : flags.includes("y") ? end : from)) return wrong("replace's lastIndex", expression.lastIndex, end);
  return null;
}

const FLAGS = ["", "g", "i", "gi", "m", "gm", "gim", "s", "gs", "y", "gy", "iy", "u", "gu", "giu", "uy", "my", "gimsuy"];
function main(params) {
  seed = params.seed;
  let tried = 0, found = 0;
  // Expressions of before, which are used again when the engine has long forgotten them.
  const old = [];
  for (let i = 0; i < params.count; i++) {
    const source = alt(0), flags = pick(FLAGS);
    let expression;
    try { expression = new RegExp(source, flags); } catch { continue; }
    // An expression that is used often is analysed for short texts, too.
    for (let k = 0; k < 20; k++) { expression.lastIndex = 0; expression.test(""); }
    old[rnd(50)] = [source, flags, expression];
    for (const each of [[source, flags, expression], pick(old) ?? old[0] ?? [source, flags, expression]]) {
      for (let k = 0; k < 3; k++) {
        const t = text(rnd(16));
        const wrong = compare(...each, t, rnd(4));
        if (wrong) return wrong;
        tried++;
        if (each[2].test(t)) found++;
      }
    }
  }
  return { tried, found };
}

// Much text: the filter's blocks of 16 characters, and automata that forget.
function long(params) {
  seed = params.seed;
  let matches = 0;
  const sources = [
    "ab?c", "abcabc|cab", "[ab]{3}c", "a[^b]{5}b", "(a|b)*c{2,4}", "(?:a|b)*a(?:a|b){9}c", "(?:a|b)*a(?:a|b){13}c", "b{3,}a", "a{2,5}?b", "\\bab+\\b", "^b.*$", "c$", "(a+)(b*)c",
    "(?=ab)a", "(a)\\1", "abcabcabcabc", "a.c.b.a.c.b", "[^]", "", "a*?$", "(?:ab|a)(?:bc|c)?", "\\d{3}|ccc", ".{17}a", "[a-c\\n]{40}",
  ];
  for (let i = 0; i < params.count; i++) {
    const source = pick(sources), flags = pick(["g", "gi", "gm", "gs", "gims"]), letters = pick(["ab", "abc", "abcA\n ", "aaab", "abc\u00e9"]);
    let t = "";
    for (let n = 250 + rnd(120); n > 0; n--) t += letters[rnd(letters.length)];
    if (rnd(5) === 0) t += "\u2028";
    const expression = new RegExp(source, flags), slow = all(source, flags, t);
    const [quick, wanted] = [JSON.stringify(t.match(expression)), JSON.stringify(slow.length ? slow.map((match) => match[0]) : null)];
    if (quick !== wanted) return { source, flags, text: t, quick, wanted };
    if (t.replace(expression, "<$&>") !== replaced(slow, t, "<$&>")) return { source, flags, text: t, what: "replace" };
    matches += slow.length;
  }
  return { matches };
}
