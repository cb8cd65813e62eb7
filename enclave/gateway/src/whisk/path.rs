//! Paths of requests.

use super::rejection::Rejection;

/// Bytes of a percent-encoded text; `None` when it is not one.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push((digit()? << 4 | digit()?) as u8);
    }
    Some(bytes)
}

/// The segments of a path that begins with `/` or is empty; a slash at the end makes an empty one.
///
/// # Errors
/// 400 for what is no UTF-8 and for what names no entity in any case.
pub fn segments(path: &str) -> Result<Vec<String>, Rejection> {
    let illegal = || Rejection::bad_request("The name of the entity contains illegal characters.");
    let Some(path) = path.strip_prefix('/') else {
        return if path.is_empty() { Ok(Vec::new()) } else { Err(illegal()) };
    };
    path.split('/').map(|segment| String::from_utf8(decoded(segment).ok_or_else(illegal)?).map_err(|_| illegal())).collect()
}

/// What of a path follows so many segments, as it came.
pub fn after(path: &str, segments: usize) -> &str {
    path.match_indices('/').nth(segments).map_or("", |(at, _)| &path[at..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_are_decoded() {
        assert_eq!(segments("").unwrap(), Vec::<String>::new());
        assert_eq!(segments("/").unwrap(), [""]);
        assert_eq!(segments("/namespaces/_/actions/a%20b/").unwrap(), ["namespaces", "_", "actions", "a b", ""]);
        // A slash in a name is no separator, and no name has one.
        assert_eq!(segments("/a%2Fb").unwrap(), ["a/b"]);
        for bad in ["/%", "/%4", "/%zz", "/%ff", "x"] {
            assert!(segments(bad).is_err(), "{bad}");
        }
        assert_eq!(after("/web/a/b/c/d%20e/f", 4), "/d%20e/f");
        assert_eq!(after("/web/a/b/c", 4), "");
    }

    proptest! {
        #[test]
        fn no_path_breaks_it(path in ".{0,60}") {
            let _ = segments(&path);
            let _ = after(&path, 4);
        }
    }
}
