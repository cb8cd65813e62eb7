//! Sizes of answers in classes, so that the host learns less from the length of a record.
//!
//! A body of JSON or HTML may end in white space without meaning anything else, so that is what fills it up; other bodies are sent as they
//! are. The classes are those of Padmé: at most 12 % more, and the host learns about log log of the size.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};

use crate::router::Response;

/// Name of the header by which a caller has the answer padded: `on`. It travels within TLS, so the host does not see who asks for it.
pub const HEADER: HeaderName = HeaderName::from_static("x-teemate-padding");

/// Smallest class.
const SMALLEST: usize = 1 << 10;

/// Whether a request asks for a padded answer.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(HEADER).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"on"))
}

/// The class of a size: at least 1 KiB, and beyond that a number of which only the highest few bits are set.
pub fn class(length: usize) -> usize {
    if length <= SMALLEST {
        return SMALLEST;
    }
    let exponent = usize::BITS - 1 - length.leading_zeros();
    let digits = u32::BITS - exponent.leading_zeros();
    let mask = (1usize << exponent.saturating_sub(digits)) - 1;
    length.saturating_add(mask) & !mask
}

/// Fills an answer's body up to its class, if its type allows that.
pub fn pad(response: &mut Response) {
    if response.body.is_empty() || !takes_space(&response.headers) {
        return;
    }
    let length = class(response.body.len());
    let mut body = BytesMut::with_capacity(length);
    body.extend_from_slice(&response.body);
    body.resize(length, b' ');
    response.body = Bytes::from(body);
}

/// Whether white space at the end changes nothing.
fn takes_space(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.eq_ignore_ascii_case("text/html")
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_class_is_as_large_and_little_larger(length in 0usize..1 << 40) {
            let class = class(length);
            prop_assert!(class >= length);
            prop_assert!(class <= SMALLEST || class - length <= length / 8);
            prop_assert_eq!(super::class(class), class);
        }
    }

    #[test]
    fn there_are_few_classes() {
        let classes: std::collections::BTreeSet<_> = (0..=1 << 20).map(class).collect();
        assert!(classes.len() < 256, "{}", classes.len());
        assert_eq!(class(usize::MAX - 1) & 1, 0);
    }

    #[test]
    fn only_what_ends_in_space_as_well_is_filled_up() {
        let mut json = Response::json(StatusCode::OK, "{\"a\":1}");
        pad(&mut json);
        assert_eq!(json.body.len(), SMALLEST);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json.body).unwrap()["a"], 1);
        let mut picture = Response::json(StatusCode::OK, "abc");
        picture.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
        pad(&mut picture);
        assert_eq!(picture.body, "abc");
        let mut nothing = Response::empty(StatusCode::NO_CONTENT);
        pad(&mut nothing);
        assert!(nothing.body.is_empty());
        let mut packed = Response::json(StatusCode::OK, "abc");
        packed.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        pad(&mut packed);
        assert_eq!(packed.body, "abc");
    }
}
