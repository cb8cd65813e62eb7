//! Names of entities: what OpenWhisk takes as one, and where a name leads.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest name of an entity.
pub const MAX_NAME: usize = 256;

/// Whether OpenWhisk takes this as the name of an entity: `\A([\w]|[\w][\w@ .&-]{0,254}[\w@.&-])\z`.
pub fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let inner = |byte: u8| word(byte) || b"@ .&-".contains(&byte);
    let bytes = text.as_bytes();
    match bytes {
        [] => false,
        [only] => word(*only),
        [first, .., last] => bytes.len() <= MAX_NAME && word(*first) && bytes.iter().all(|b| inner(*b)) && *last != b' ',
    }
}

/// Where an action, trigger, rule or package is: namespace, package if it is in one, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fqn {
    /// Namespace.
    pub namespace: String,
    /// Package.
    pub package: Option<String>,
    /// Name.
    pub name: String,
}

impl Fqn {
    /// Something outside packages.
    pub fn plain(namespace: &str, name: &str) -> Self {
        Fqn { namespace: namespace.to_owned(), package: None, name: name.to_owned() }
    }

    /// Reads `/namespace/name` and `/namespace/package/name`; the first slash may lack, as OpenWhisk has it. `_` is `own`.
    ///
    /// # Errors
    /// What is wrong, in OpenWhisk's words.
    pub fn parse(text: &str, own: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).take(4).collect();
        if parts.iter().any(|part| !is_name(part)) {
            return Err("fully qualified name malformed".to_owned());
        }
        let namespace = |text: &str| if text == "_" { own.to_owned() } else { text.to_owned() };
        match parts[..] {
            [] | [_] => {
                Err("The fully qualified name of the entity must contain at least the namespace and the name of the entity.".to_owned())
            }
            [space, name] => Ok(Fqn { namespace: namespace(space), package: None, name: name.to_owned() }),
            [space, package, name] => Ok(Fqn { namespace: namespace(space), package: Some(package.to_owned()), name: name.to_owned() }),
            _ => Err("fully qualified name malformed".to_owned()),
        }
    }

    /// Reads what a body has: a string, or an object of `path` and `name`.
    ///
    /// # Errors
    /// What is wrong, in OpenWhisk's words.
    pub fn from_json(value: &Value, own: &str) -> Result<Self, String> {
        let malformed = || "fully qualified name malformed".to_owned();
        match value {
            Value::String(text) => Fqn::parse(text, own),
            Value::Object(fields) => {
                let part = |key: &str| fields.get(key).and_then(Value::as_str).ok_or_else(malformed);
                Fqn::parse(&format!("{}/{}", part("path")?, part("name")?), own)
            }
            _ => Err(malformed()),
        }
    }

    /// As rules and triggers show it.
    pub fn to_json(&self) -> Value {
        json!({ "path": self.path(), "name": self.name })
    }

    /// Namespace and package.
    pub fn path(&self) -> String {
        path(&self.namespace, self.package.as_deref())
    }

    /// Name within its namespace: `name` or `package/name`.
    pub fn key(&self) -> String {
        key(self.package.as_deref(), &self.name)
    }

    /// `namespace/name` or `namespace/package/name`.
    pub fn full(&self) -> String {
        format!("{}/{}", self.namespace, self.key())
    }
}

/// Namespace and package, as entities in packages show it.
pub fn path(namespace: &str, package: Option<&str>) -> String {
    package.map_or_else(|| namespace.to_owned(), |package| format!("{namespace}/{package}"))
}

/// Name within a namespace.
pub fn key(package: Option<&str>, name: &str) -> String {
    package.map_or_else(|| name.to_owned(), |package| format!("{package}/{name}"))
}

/// A version as OpenWhisk counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SemVer(u32, u32, u32);

impl Default for SemVer {
    fn default() -> Self {
        SemVer(0, 0, 1)
    }
}

impl SemVer {
    /// Reads one to three numbers. All zero is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut next = || parts.next().map_or(Some(0), |part| part.parse::<u32>().ok().filter(|_| !part.starts_with('+')));
        let version = SemVer(next()?, next()?, next()?);
        (version != SemVer(0, 0, 0)).then_some(version)
    }

    /// The version after this one.
    pub fn next(self) -> Self {
        SemVer(self.0, self.1, self.2.saturating_add(1))
    }
}

impl std::fmt::Display for SemVer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Serialize for SemVer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SemVer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        SemVer::parse(&text).ok_or_else(|| serde::de::Error::custom("semantic version malformed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_openwhisks() {
        for good in ["a", "_", "7", "a b", "hello.js", "a@b", "a&b", "a-b", "x-", "x.", &"n".repeat(256)] {
            assert!(is_name(good), "{good:?}");
        }
        for bad in ["", " ", "a ", "-a", ".a", "@", "a/b", "a\n", "ä", "a$b", "a:b", "a\0b", &"n".repeat(257)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn qualified_names_lead_somewhere() {
        let own = "ada";
        assert_eq!(Fqn::parse("/_/hello", own).unwrap(), Fqn::plain("ada", "hello"));
        assert_eq!(Fqn::parse("bob/hello", own).unwrap(), Fqn::plain("bob", "hello"));
        let packed = Fqn::parse("/bob/tools/echo", own).unwrap();
        assert_eq!((packed.full().as_str(), packed.key().as_str(), packed.path().as_str()), ("bob/tools/echo", "tools/echo", "bob/tools"));
        for bad in ["", "hello", "/hello", "/a/b/c/d", "/a/ b", "/../b", "a//"] {
            assert!(Fqn::parse(bad, own).is_err(), "{bad:?}");
        }
        assert_eq!(Fqn::from_json(&packed.to_json(), own).unwrap(), packed);
        assert!(Fqn::from_json(&json!(7), own).is_err());
        assert!(Fqn::from_json(&json!({ "path": "bob" }), own).is_err());
    }

    #[test]
    fn versions_count_up() {
        assert_eq!(SemVer::default().next().to_string(), "0.0.2");
        assert_eq!(SemVer::parse("1.2").unwrap().to_string(), "1.2.0");
        for bad in ["", "0.0.0", "a", "1.x", "-1.0.0", "1.2.99999999999", "+1.0.0"] {
            assert_eq!(SemVer::parse(bad), None, "{bad:?}");
        }
        assert_eq!(SemVer::parse("4294967295.4294967295.4294967295").unwrap().next().to_string(), "4294967295.4294967295.4294967295");
    }
}
