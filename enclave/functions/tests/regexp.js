// Expressions and texts at random: looking for a match (which goes through the filter of engine/regexp.c) must find what trying each
// position with a sticky expression finds (which does not).
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
function term(d) { let t = atom(d); if (!/^(\^|\$|\\b|\\B|\(\?[=!<])/.test(t) && rnd(3) === 0) t += pick(["?","*","+","*?","+?","??","{2}","{1,3}","{0}","{3,}"]); return t; }
function seq(d) { let t = ""; const n = 1 + rnd(4); for (let i = 0; i < n; i++) t += term(d); return t; }
function alt(d) { let t = seq(d); while (rnd(4) === 0) t += "|" + (rnd(8) ? seq(d) : ""); return t; }
function text(n) { let t = ""; const set = pick([["a","b"],["a","b","c","A","\n"," "],["a","b","é","É","ß","k","s"],["a","Ω","\u017f","\u212a","k","K","b"],["a","\ud83d\ude00","b","\ud83d","\ude00"]]); for (let i = 0; i < n; i++) t += pick(set); return t; }
// The first match from `from` on, by trying each position.
function slowly(source, flags, text, from) {
  const sticky = new RegExp(source, flags.replace("g", "") + "y");
  for (let at = from; at <= text.length; at++) {
    sticky.lastIndex = at;
    const match = sticky.exec(text);
    if (match) return match;
  }
  return null;
}
const told = (match) => match && JSON.stringify([match.index, ...match]);

function main(params) {
  seed = params.seed;
  let tried = 0, found = 0;
  for (let i = 0; i < params.count; i++) {
    const source = alt(0), flags = pick(["", "g", "i", "gi", "m", "gm", "gim", "s", "gs"]);
    let expression;
    try { expression = new RegExp(source, flags); } catch { continue; }
    // An expression that is used often gets a filter for short texts, too.
    for (let k = 0; k < 20; k++) expression.test("");
    for (let k = 0; k < 3; k++) {
      const t = text(rnd(16));
      const from = flags.includes("g") ? rnd(4) : 0;
      expression.lastIndex = from;
      const [quick, slow] = [told(expression.exec(t)), told(slowly(source, flags, t, from))];
      if (quick !== slow) return { source, flags, text: t, from, quick, slow };
      tried++;
      if (quick) found++;
    }
  }
  return { tried, found };
}
