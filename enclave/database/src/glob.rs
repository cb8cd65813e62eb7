//! Patterns of KEYS, SCAN and PSUBSCRIBE: `*`, `?`, `[a-z]`, `[^a-z]`, `\x`.

/// Stars of a pattern that are looked at.
const STARS: usize = 1000;

/// Whether a text matches. Time is bounded by the product of the two lengths: of several stars only the last is tried again.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not match: behind the star, and at the text's next byte.
    let mut again: Option<(usize, usize)> = None;
    let mut stars = 0;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            // As Redis: a pattern with more stars matches nothing.
            stars += 1;
            if stars > STARS {
                return false;
            }
            while pattern.get(p + 1) == Some(&b'*') {
                p += 1;
            }
            p += 1;
            again = Some((p, t));
            continue;
        }
        let one = (t < text.len()).then(|| one(&pattern[p..], text[t])).flatten();
        match one {
            Some(length) => {
                p += length;
                t += 1;
            }
            None if p == pattern.len() && t == text.len() => return true,
            None => match again {
                Some((star, at)) if at < text.len() => {
                    again = Some((star, at + 1));
                    (p, t) = (star, at + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Bytes of the pattern's first element, if that matches this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (not, mut at) = if rest.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
            let mut found = false;
            while at < rest.len() && rest[at] != b']' {
                match rest[at..] {
                    [b'\\', escaped, ..] => {
                        found |= escaped == byte;
                        at += 2;
                    }
                    [from, b'-', to, ..] if to != b']' => {
                        found |= (from.min(to)..=from.max(to)).contains(&byte);
                        at += 3;
                    }
                    _ => {
                        found |= rest[at] == byte;
                        at += 1;
                    }
                }
            }
            // A class that is not closed ends with the pattern.
            (found != not).then_some((1 + at + 1).min(pattern.len()))
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("a**b", "ab", true),
            ("[abc", "a", true),
            ("foo[", "foo[", false),
            (r"[\]]", "]", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let text = "a".repeat(10_000);
        assert!(!matches("a*a*a*a*a*a*a*a*a*a*a*b".as_bytes(), text.as_bytes()));
    }
}
