//! Numbers as Redis reads and writes them.

/// A whole number in its one spelling: no sign but `-`, no leading zeros, no spaces.
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => digits.len() <= 19,
        _ => false,
    };
    if !plain || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A whole number without a sign; zeros may lead.
pub fn natural(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A floating-point number, infinities included; not a number is none.
pub fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.trim_start_matches(['+', '-']);
    let infinite = bare.eq_ignore_ascii_case("inf") || bare.eq_ignore_ascii_case("infinity");
    // Rust reads more words than C does, and fewer spaces; only what starts like a number is one.
    if !infinite && !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') || text.len() - bare.len() > 1 {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| !number.is_nan())
}

/// A floating-point number as replies carry it: the shortest text that reads as the same number (Redis: `%.17g`).
pub fn show(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == number.trunc() && number.abs() < 1e17 {
        return if number == 0.0 && number.is_sign_negative() { "-0".to_owned() } else { format!("{number:.0}") };
    }
    let plain = format!("{number}");
    if (1e-5..1e17).contains(&number.abs()) {
        return plain;
    }
    // C's %g writes at least two digits of exponent, and its sign.
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// The sum of two numbers as INCRBYFLOAT has it: exact to 17 places behind the point where both have no more, as Redis's 80-bit numbers print
/// it; else that of the floating-point numbers. `None`: it is no number any more.
pub fn sum(a: &[u8], b: &[u8]) -> Option<String> {
    if let (Some(a), Some(b)) = (decimal(a), decimal(b))
        && let Some(sum) = a.checked_add(b)
    {
        let (whole, part) = (sum.unsigned_abs() / UNIT, sum.unsigned_abs() % UNIT);
        let text = format!("{}{whole}.{part:017}", if sum < 0 { "-" } else { "" });
        return Some(text.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
    Some(float(a)? + float(b)?).filter(|sum| sum.is_finite()).map(show)
}

/// One, in units of the 17th place.
const UNIT: u128 = 100_000_000_000_000_000;

/// A decimal number in units of the 17th place behind the point, if it is a whole number of them.
fn decimal(text: &[u8]) -> Option<i128> {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let digits = std::str::from_utf8(digits).ok()?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 18 || part.len() > 17 || !plain(whole) || !plain(part) {
        return None;
    }
    let number: i128 = format!("{whole}{part:0<17}").parse().ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for (text, number) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)] {
            assert_eq!(integer(text.as_bytes()), Some(number));
        }
        for bad in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "abc", "99999999999999999999"] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn sums_are_exact_where_they_can_be() {
        for (a, b, sum_) in [
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("5e3", "2e2", "5200"),
            ("1", "-1", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("3.0", "1.23e0", "4.23"),
        ] {
            assert_eq!(sum(a.as_bytes(), b.as_bytes()).as_deref(), Some(sum_), "{a} + {b}");
        }
        assert_eq!(sum(b"1e308", b"1.7e308"), None);
        assert_eq!(sum(b"x", b"1"), None);
    }

    #[test]
    fn floats_are_read_as_c_does() {
        for (text, number) in
            [("1.5", 1.5), ("-2", -2.0), ("1e3", 1000.0), ("+inf", f64::INFINITY), ("-INF", f64::NEG_INFINITY), (".5", 0.5)]
        {
            assert_eq!(float(text.as_bytes()), Some(number), "{text}");
        }
        for bad in ["", "nan", "x", "1x", " 1", "--1", "1 2"] {
            assert_eq!(float(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn floats_are_shown_as_c_does() {
        for (number, text) in [
            (3.0, "3"),
            (-0.5, "-0.5"),
            (1.1, "1.1"),
            (1e20, "1e+20"),
            (1.5e-7, "1.5e-07"),
            (f64::INFINITY, "inf"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(show(number), text);
        }
    }
}
