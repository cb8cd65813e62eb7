//! What a user accepts: a TOML file, checked to the last key, because a misspelt key must not loosen anything.
//!
//! ```toml
//! tcb_status = ["UpToDate", "SWHardeningNeeded"]   # default: UpToDate only
//! advisories = ["INTEL-SA-00615"]                  # default: none
//! max_collateral_age = "30d"                       # default
//! debug = false                                    # default
//! insecure_simulation = false                      # default
//! collateral = "collateral.json"                   # beside the policy
//!
//! [[enclave]]                                      # one program, exactly
//! mrenclave = "…"
//!
//! [[enclave]]                                      # whatever this signer signs as this product, from a version on
//! mrsigner = "…"
//! product = 1
//! min_svn = 3
//! ```

use std::path::{Path, PathBuf};

use dcap_qvl::TcbStatus;
use serde::{Deserialize, Serialize};
use teemate_evidence::encoding::{hex, unhex};
use toml::Spanned;

/// Longest policy that is read.
const MAX_LENGTH: usize = 256 << 10;
/// Most enclaves in a policy.
const MAX_ENCLAVES: usize = 1000;
/// Age of collateral that is taken unless the policy says otherwise.
const DEFAULT_AGE: u64 = 30 * DAY;
const DAY: u64 = 86_400;

/// A program that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This measurement and no other.
    Enclave {
        /// MRENCLAVE.
        mrenclave: [u8; 32],
    },
    /// What a signer signed.
    Signer {
        /// MRSIGNER.
        mrsigner: [u8; 32],
        /// ISVPRODID.
        product: u16,
        /// Least ISVSVN.
        min_svn: u16,
    },
}

/// What is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Programs.
    pub enclaves: Vec<Identity>,
    /// Take quotes of a simulated quoting enclave. They prove nothing.
    pub insecure_simulation: bool,
    /// Take enclaves that their host can read.
    pub debug: bool,
    /// States of a platform that are taken.
    pub tcb_status: Vec<TcbStatus>,
    /// Advisories that a platform may be open to.
    pub advisories: Vec<String>,
    /// Oldest collateral that is taken, seconds.
    pub max_collateral_age: u64,
    /// Where collateral is.
    pub collateral: Option<PathBuf>,
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("the policy {} can't be read: {source}; `teemate policy init` makes one", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no policy: TOML's own message has line and key.
    #[error("the policy is wrong: {0}")]
    Syntax(String),
    /// A value can't be.
    #[error("the policy is wrong: line {line}, {key}: {why}")]
    Value {
        /// Line, from 1.
        line: usize,
        /// Key.
        key: &'static str,
        /// Why.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    insecure_simulation: bool,
    #[serde(default)]
    debug: bool,
    tcb_status: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    advisories: Vec<Spanned<String>>,
    max_collateral_age: Option<Spanned<String>>,
    collateral: Option<PathBuf>,
    #[serde(default)]
    enclave: Vec<Spanned<Enclave>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enclave {
    mrenclave: Option<Spanned<String>>,
    mrsigner: Option<Spanned<String>>,
    product: Option<u16>,
    min_svn: Option<u16>,
}

/// Finds the line of a value.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn wrong<T>(&self, at: &Spanned<T>, key: &'static str, why: impl ToString) -> Error {
        let line = self.0.as_bytes().iter().take(at.span().start).filter(|byte| **byte == b'\n').count() + 1;
        Error::Value { line, key, why: why.to_string() }
    }

    fn digest(&self, text: &Spanned<String>, key: &'static str) -> Result<[u8; 32], Error> {
        unhex(text.get_ref()).ok_or_else(|| self.wrong(text, key, "it has 64 hexadecimal digits"))
    }

    fn identity(&self, spanned: &Spanned<Enclave>) -> Result<Identity, Error> {
        match spanned.get_ref() {
            Enclave { mrenclave: Some(mrenclave), mrsigner: None, product: None, min_svn: None } => {
                Ok(Identity::Enclave { mrenclave: self.digest(mrenclave, "mrenclave")? })
            }
            Enclave { mrenclave: None, mrsigner: Some(mrsigner), product: Some(product), min_svn: Some(min_svn) } => {
                Ok(Identity::Signer { mrsigner: self.digest(mrsigner, "mrsigner")?, product: *product, min_svn: *min_svn })
            }
            _ => Err(self.wrong(spanned, "enclave", "it has either mrenclave alone, or all of mrsigner, product and min_svn")),
        }
    }

    fn status(&self, text: &Spanned<String>) -> Result<TcbStatus, Error> {
        STATUSES.iter().copied().find(|status| status.to_string() == *text.get_ref()).ok_or_else(|| {
            let names: Vec<String> = STATUSES.iter().map(ToString::to_string).collect();
            self.wrong(text, "tcb_status", format!("{:?} is none of {}", text.get_ref(), names.join(", ")))
        })
    }

    fn age(&self, text: &Spanned<String>) -> Result<u64, Error> {
        let value = text.get_ref();
        let split = value.len().saturating_sub(1);
        let unit = match value.get(split..) {
            Some("d") => DAY,
            Some("h") => 3600,
            _ => 0,
        };
        let number = value.get(..split).and_then(|digits| digits.parse::<u64>().ok());
        let age = number.and_then(|number| number.checked_mul(unit)).filter(|age| *age > 0);
        age.ok_or_else(|| self.wrong(text, "max_collateral_age", "it is a number of days or hours, as \"30d\" or \"12h\""))
    }
}

/// States that a policy can take. A revoked platform is never taken.
const STATUSES: [TcbStatus; 6] = [
    TcbStatus::UpToDate,
    TcbStatus::SWHardeningNeeded,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::ConfigurationAndSWHardeningNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
];

impl Policy {
    /// Accepts these programs on up-to-date platforms, and nothing else.
    pub fn strict(enclaves: Vec<Identity>) -> Self {
        Policy {
            enclaves,
            insecure_simulation: false,
            debug: false,
            tcb_status: vec![TcbStatus::UpToDate],
            advisories: Vec::new(),
            max_collateral_age: DEFAULT_AGE,
            collateral: None,
        }
    }

    /// Reads a policy's text.
    ///
    /// # Errors
    /// [`Error::Syntax`] and [`Error::Value`], with line and key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::Syntax(format!("it has {} bytes; at most {MAX_LENGTH} are read", text.len())));
        }
        let file: File = toml::from_str(text).map_err(|error| Error::Syntax(error.to_string().trim_end().to_owned()))?;
        let lines = Lines(text);
        if file.enclave.is_empty() {
            return Err(Error::Syntax("it has no [[enclave]], so it would accept nothing".to_owned()));
        }
        if file.enclave.len() > MAX_ENCLAVES {
            return Err(Error::Syntax(format!("it has more than {MAX_ENCLAVES} [[enclave]]s")));
        }
        let mut policy = Policy::strict(file.enclave.iter().map(|enclave| lines.identity(enclave)).collect::<Result<_, _>>()?);
        if let Some(statuses) = &file.tcb_status {
            policy.tcb_status = statuses.get_ref().iter().map(|status| lines.status(status)).collect::<Result<_, _>>()?;
            if policy.tcb_status.is_empty() {
                return Err(lines.wrong(statuses, "tcb_status", "it is empty, so nothing would be accepted"));
            }
        }
        for advisory in &file.advisories {
            let valid = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if advisory.get_ref().is_empty() || !advisory.get_ref().chars().all(valid) {
                return Err(lines.wrong(advisory, "advisories", "an advisory is a name as INTEL-SA-00615; there are no patterns"));
            }
            policy.advisories.push(advisory.get_ref().clone());
        }
        if let Some(age) = &file.max_collateral_age {
            policy.max_collateral_age = lines.age(age)?;
        }
        (policy.insecure_simulation, policy.debug, policy.collateral) = (file.insecure_simulation, file.debug, file.collateral);
        Ok(policy)
    }

    /// Reads a policy file. A relative path of collateral in it is beside the file.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        use std::io::Read;
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut text = String::new();
        std::fs::File::open(path).map_err(io)?.take(MAX_LENGTH as u64 + 1).read_to_string(&mut text).map_err(io)?;
        let mut policy = Policy::parse(&text)?;
        if let (Some(collateral), Some(directory)) = (&policy.collateral, path.parent()) {
            policy.collateral = Some(directory.join(collateral));
        }
        Ok(policy)
    }

    /// The policy as a file, with the reasons.
    pub fn to_toml(&self) -> String {
        let quoted = |values: Vec<String>| values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ");
        let mut text = String::from("# What is accepted as an enclave. Keys that are not known are refused.\n\n");
        text += "# States of a platform that are taken. UpToDate is the strict one; SWHardeningNeeded is common and means that the\n";
        text += "# enclave's own code must mitigate the advisories named below.\n";
        text += &format!("tcb_status = [{}]\n", quoted(self.tcb_status.iter().map(ToString::to_string).collect()));
        text += &format!("advisories = [{}]\n", quoted(self.advisories.clone()));
        let age = self.max_collateral_age;
        let age = if age.is_multiple_of(DAY) { format!("{}d", age / DAY) } else { format!("{}h", age / 3600) };
        text += &format!("max_collateral_age = \"{age}\"\n");
        if let Some(collateral) = &self.collateral {
            text += &format!("collateral = {}\n", toml::Value::from(collateral.display().to_string()));
        }
        text += "\n# A debug enclave's memory can be read by its host.\n";
        text += &format!("debug = {}\n", self.debug);
        text += "\n# A simulated quote proves nothing: everybody can make one. For development only.\n";
        text += &format!("insecure_simulation = {}\n", self.insecure_simulation);
        for identity in &self.enclaves {
            text += "\n[[enclave]]\n";
            match identity {
                Identity::Enclave { mrenclave } => text += &format!("mrenclave = \"{}\"\n", hex(mrenclave)),
                Identity::Signer { mrsigner, product, min_svn } => {
                    text += &format!("mrsigner = \"{}\"\nproduct = {product}\nmin_svn = {min_svn}\n", hex(mrsigner));
                }
            }
        }
        text
    }
}

/// For `--json`.
impl Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Identity::Enclave { mrenclave } => serde_json::json!({ "mrenclave": hex(mrenclave) }),
            Identity::Signer { mrsigner, product, min_svn } => {
                serde_json::json!({ "mrsigner": hex(mrsigner), "product": product, "min_svn": min_svn })
            }
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digits(pair: &str) -> String {
        pair.repeat(32)
    }

    fn enclave() -> String {
        format!("[[enclave]]\nmrenclave = \"{}\"\n", digits("ab"))
    }

    #[test]
    fn defaults_are_strict() {
        let policy = Policy::parse(&enclave()).unwrap();
        assert_eq!(policy, Policy::strict(vec![Identity::Enclave { mrenclave: [0xab; 32] }]));
        assert!(!policy.insecure_simulation && !policy.debug && policy.advisories.is_empty());
        assert_eq!(policy.tcb_status, [TcbStatus::UpToDate]);
    }

    #[test]
    fn everything_can_be_said() {
        let text = format!(
            "insecure_simulation = true\ndebug = true\ntcb_status = [\"OutOfDate\"]\nadvisories = [\"INTEL-SA-1\"]\nmax_collateral_age = \"12h\"\ncollateral = \"c.json\"\n{}[[enclave]]\nmrsigner = \"{}\"\nproduct = 1\nmin_svn = 2\n",
            enclave(),
            digits("cd")
        );
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.enclaves[1], Identity::Signer { mrsigner: [0xcd; 32], product: 1, min_svn: 2 });
        assert_eq!((policy.max_collateral_age, policy.debug, policy.insecure_simulation), (43_200, true, true));
        assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy, "{}", policy.to_toml());
    }

    #[test]
    fn errors_name_line_and_key() {
        let short = "\n\n[[enclave]]\nmrenclave = \"ab\"\n";
        let signer = digits("cd");
        for (text, line, key) in [
            (short.to_owned(), "line 4", "mrenclave"),
            (format!("insecure_simulatoin = true\n{}", enclave()), "line 1", "insecure_simulatoin"),
            (format!("{}product = 1\n", enclave()), "line 1", "enclave"),
            (format!("\n[[enclave]]\nmrsigner = \"{signer}\"\nproduct = 1\n"), "line 2", "min_svn"),
            (format!("[[enclave]]\nmrsigner = \"{signer}\"\nproduct = 1\nmin_svn = 70000\n"), "line 4", "min_svn"),
            (format!("[[enclave]]\nmrsigner = \"{signer}\"\nproduct = 1\nmin_svn = 0\nmin_svm = 1\n"), "line 5", "min_svm"),
            (format!("debug = true\ntcb_status = [\"UpToDate\",\n\"Fine\"]\n{}", enclave()), "line 3", "tcb_status"),
            (format!("tcb_status = [\"Revoked\"]\n{}", enclave()), "line 1", "tcb_status"),
            (format!("tcb_status = []\n{}", enclave()), "line 1", "tcb_status"),
            (format!("advisories = [\"*\"]\n{}", enclave()), "line 1", "advisories"),
            (format!("max_collateral_age = \"0d\"\n{}", enclave()), "line 1", "max_collateral_age"),
            (format!("max_collateral_age = \"99999999999999999999d\"\n{}", enclave()), "line 1", "max_collateral_age"),
            (format!("max_collateral_age = \"3é\"\n{}", enclave()), "line 1", "max_collateral_age"),
            (format!("debug = \"yes\"\n{}", enclave()), "line 1", "debug"),
            (format!("debug = false\ndebug = true\n{}", enclave()), "line 2", "debug"),
        ] {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(key), "{text}\n{error}");
        }
        assert!(Policy::parse("debug = false\n").unwrap_err().to_string().contains("[[enclave]]"));
    }

    #[test]
    fn a_missing_file_is_named_with_what_to_do() {
        let error = Policy::load(Path::new("/nowhere/policy.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/policy.toml") && error.contains("teemate policy init"), "{error}");
    }

    #[test]
    fn collateral_lies_beside_its_policy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.toml");
        std::fs::write(&path, format!("collateral = \"c.json\"\n{}", enclave())).unwrap();
        assert_eq!(Policy::load(&path).unwrap().collateral, Some(directory.path().join("c.json")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", key in "[a-z_]{0,12}", value in "[\\[\\]\"a-z0-9,]{0,12}") {
            let _ = Policy::parse(&text);
            let _ = Policy::parse(&format!("{key} = {value}\n{}", enclave()));
        }
    }
}
