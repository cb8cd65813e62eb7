//! Parameters of a query.

use super::history::Filter;
use super::limits::{DEFAULT_LIST, MAX_LIST, MAX_WAIT_MS};
use super::names::is_name;
use super::rejection::Rejection;

/// The query of a request.
pub struct Query<'a>(pub &'a [(String, String)]);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean that is so unless something is said.
    ///
    /// # Errors
    /// 400.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Rejection> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "yes" | "on" | "1") => Ok(true),
            Some("false" | "no" | "off" | "0") => Ok(false),
            Some(other) => {
                let other: String = other.chars().take(80).collect();
                Err(Rejection::malformed_query(name, format!("'{other}' is not a valid Boolean value")))
            }
        }
    }

    /// How many to leave out of a list, and how many to show then.
    ///
    /// # Errors
    /// 400.
    pub fn page(&self, collection: &str) -> Result<(usize, usize), Rejection> {
        let number = |name: &'static str| -> Result<Option<i64>, Rejection> {
            let Some(text) = self.get(name) else { return Ok(None) };
            let number = text.parse::<i32>().map(i64::from);
            let shown: String = text.chars().take(80).collect();
            let sentence = format!("The value '{shown}' is not an integer for {collection}.");
            number.map(Some).map_err(|_| Rejection::malformed_query(name, sentence))
        };
        let skip = number("skip")?.unwrap_or(0);
        let skip = usize::try_from(skip).map_err(|_| {
            Rejection::malformed_query("skip", format!("The value '{skip}' is not greater than or equal to 0 for {collection}."))
        })?;
        let limit = match number("limit")? {
            None => DEFAULT_LIST,
            // OpenWhisk: as many as one may have.
            Some(0) => MAX_LIST,
            Some(limit) => usize::try_from(limit).ok().filter(|limit| *limit <= MAX_LIST).ok_or_else(|| {
                let sentence = format!("The value '{limit}' is not in the range of 0 to {MAX_LIST} for {collection}.");
                Rejection::malformed_query("limit", sentence)
            })?,
        };
        Ok((skip, limit))
    }

    /// Which activations to show.
    ///
    /// # Errors
    /// 400.
    pub fn filter(&self) -> Result<Filter, Rejection> {
        let epoch = |name: &'static str| -> Result<Option<u64>, Rejection> {
            let Some(text) = self.get(name) else { return Ok(None) };
            let shown: String = text.chars().take(80).collect();
            let bad = |_| Rejection::malformed_query(name, format!("Parameter is not a valid value for epoch seconds: {shown}"));
            text.parse::<i64>().map(|ms| Some(u64::try_from(ms).unwrap_or(0))).map_err(bad)
        };
        let name = match self.get("name").map(str::trim) {
            None | Some("") => None,
            Some(name) => {
                let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).take(3).collect();
                if parts.len() > 2 || parts.is_empty() || !parts.iter().all(|part| is_name(part)) {
                    let name: String = name.chars().take(80).collect();
                    let sentence = format!("Parameter may be a 'simple' name or 'package-name/simple' name: {name}");
                    return Err(Rejection::malformed_query("name", sentence));
                }
                Some(parts.join("/"))
            }
        };
        Ok(Filter { name, since: epoch("since")?, upto: epoch("upto")? })
    }

    /// How long to wait for a blocking invocation, milliseconds.
    ///
    /// # Errors
    /// 400.
    pub fn wait(&self) -> Result<u64, Rejection> {
        let Some(text) = self.get("timeout") else { return Ok(MAX_WAIT_MS) };
        let wait = text.parse::<u64>().ok().filter(|wait| (1..=MAX_WAIT_MS).contains(wait));
        wait.ok_or_else(|| Rejection::malformed_query("timeout", format!("Timeout must be number of milliseconds up to {MAX_WAIT_MS}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(pairs: &[(&str, &str)], read: impl FnOnce(Query<'_>) -> T) -> T {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        read(Query(&pairs))
    }

    #[test]
    fn pages_stay_within_bounds() {
        assert_eq!(with(&[], |q| q.page("actions")).unwrap(), (0, 30));
        assert_eq!(with(&[("limit", "0"), ("skip", "7")], |q| q.page("actions")).unwrap(), (7, 200));
        for (key, value, sentence) in [
            ("limit", "201", "The value '201' is not in the range of 0 to 200 for actions."),
            ("limit", "-1", "The value '-1' is not in the range of 0 to 200 for actions."),
            ("limit", "x", "The value 'x' is not an integer for actions."),
            ("skip", "-1", "The value '-1' is not greater than or equal to 0 for actions."),
            ("skip", "9999999999", "The value '9999999999' is not an integer for actions."),
        ] {
            let rejection = with(&[(key, value)], |q| q.page("actions")).unwrap_err();
            assert_eq!(rejection.message, format!("The query parameter '{key}' was malformed:\n{sentence}"));
        }
    }

    #[test]
    fn flags_and_times() {
        assert!(with(&[("blocking", "TRUE")], |q| q.flag("blocking", false)).unwrap());
        assert!(with(&[], |q| q.flag("code", true)).unwrap());
        assert!(with(&[("blocking", "maybe")], |q| q.flag("blocking", false)).is_err());
        assert_eq!(with(&[("timeout", "100")], |q| q.wait()).unwrap(), 100);
        for bad in ["0", "60001", "-5", "x"] {
            assert!(with(&[("timeout", bad)], |q| q.wait()).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters() {
        let filter = with(&[("name", "pkg/a"), ("since", "5"), ("upto", "-1")], |q| q.filter()).unwrap();
        assert_eq!(filter, Filter { name: Some("pkg/a".into()), since: Some(5), upto: Some(0) });
        assert_eq!(with(&[("name", " ")], |q| q.filter()).unwrap(), Filter::default());
        for (key, bad) in [("name", "a/b/c"), ("name", "a$"), ("name", "/"), ("since", "yesterday")] {
            assert!(with(&[(key, bad)], |q| q.filter()).is_err(), "{bad}");
        }
    }
}
