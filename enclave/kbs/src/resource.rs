//! Names of resources.

use std::fmt;
use std::str::FromStr;

use crate::KbsError;

const LONGEST: usize = 128;

/// Name of a secret in a broker: `kbs:///repository/type/tag`, also without `kbs:///`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceId {
    parts: [String; 3],
}

impl FromStr for ResourceId {
    type Err = KbsError;

    fn from_str(text: &str) -> Result<Self, KbsError> {
        let parts: Vec<&str> = text.strip_prefix("kbs:///").unwrap_or(text).splitn(4, '/').collect();
        match parts[..] {
            [a, b, c] if is_part(a) && is_part(b) && is_part(c) => Ok(ResourceId { parts: [a.to_owned(), b.to_owned(), c.to_owned()] }),
            _ => Err(KbsError::Resource(text.chars().take(300).collect())),
        }
    }
}

/// Nothing that means something else in a path.
fn is_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !part.is_empty() && part.len() <= LONGEST && part.chars().all(allowed) && part.chars().any(|c| c != '.')
}

impl ResourceId {
    /// Path of the request.
    pub(crate) fn path(&self) -> String {
        format!("/kbs/v0/resource/{}", self.parts.join("/"))
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kbs:///{}", self.parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_three_harmless_parts() {
        for text in ["kbs:///default/key/1", "default/key/1", "my-repo/a.b/c_d"] {
            let id: ResourceId = text.parse().unwrap();
            assert_eq!(id.to_string().parse::<ResourceId>().unwrap(), id);
            assert!(id.path().starts_with("/kbs/v0/resource/") && id.path().matches('/').count() == 6);
        }
        for text in
            ["", "a/b", "a/b/c/d", "a//c", "a/../c", "a/b/c?x", "a/b/c#x", "a/b /c", "a/b/ä", "a/b/%2e", "a/b/c\r\n", "kbs://host/a/b/c"]
        {
            assert!(text.parse::<ResourceId>().is_err(), "{text:?}");
        }
        assert!(format!("a/b/{}", "c".repeat(129)).parse::<ResourceId>().is_err());
    }
}
