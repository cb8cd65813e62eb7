//! Settings and users that outlive the server, where somebody keeps them.
//!
//! Kept as the requests that make them: CONFIG SET for what differs from the defaults, ACL SETUSER for each user.

use teemate_sealed::Version;

use crate::acl::{Acl, User};
use crate::config::Config;
use crate::error::Error;
use crate::resp::{self, Request};
use crate::shared::Shared;

/// Settings that say where and how this run keeps its files: the one who starts it decides.
const OF_THE_RUN: &[&str] = &["dir", "port", "bind", "dbfilename"];

/// Keeps settings.
pub trait Keep: Send {
    /// Which ones were found at the start.
    fn version(&self) -> Version;

    /// Puts these in the place of those before, durably.
    ///
    /// # Errors
    /// Why not.
    fn keep(&self, settings: &[u8], version: Version) -> Result<(), String>;
}

/// Keeps what the settings and users are now, where they are kept, and tells the witness. While nobody could be told, nothing is changed
/// that was promised to be told.
///
/// # Errors
/// When they can't be; the caller takes the change back.
pub fn keep(shared: &mut Shared) -> Result<(), Error> {
    match shared.guard.away().filter(|_| shared.settings.is_some() && shared.config.hot.witness_refuses) {
        Some(why) => Err(Error::new(format_args!("the change can't be kept: the witness can't be told of it ({why})"))),
        None => keep_untold(shared),
    }
}

/// The same, though the witness may be away: for who leaves it.
///
/// # Errors
/// As [`keep`].
pub fn keep_untold(shared: &mut Shared) -> Result<(), Error> {
    let Some(keeper) = &shared.settings else { return Ok(()) };
    let version = shared.guard.next_settings();
    let kept = keeper.keep(&encode(&shared.config, &shared.acl), version);
    kept.map_err(|why| Error::new(format_args!("the change can't be kept: {why}")))?;
    shared.guard.settings_are(version);
    // It is kept: should the witness go away just now, it is told when it is back.
    shared.guard.tell();
    Ok(())
}

/// As requests.
pub fn encode(config: &Config, acl: &Acl) -> Vec<u8> {
    let default = Config::default();
    let mut bytes = Vec::new();
    for (name, value) in config.matching(b"*").filter(|(name, value)| default.get(name) != *value && !OF_THE_RUN.contains(name)) {
        resp::write_request(&mut bytes, &["config", "set", name, value]);
    }
    for (name, user) in &acl.users {
        let shown = user.show(name);
        let mut words = vec!["acl", "setuser", name.as_str(), "reset"];
        // Behind `user NAME`.
        words.extend(shown.split(' ').skip(2));
        resp::write_request(&mut bytes, &words);
    }
    bytes
}

/// Carries such requests out.
///
/// # Errors
/// A sentence, when they are not what [`encode`] writes.
pub fn decode(mut bytes: &[u8], config: &mut Config, acl: &mut Acl) -> Result<(), String> {
    let mut request = Request::default();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "a word of the settings is no text".to_owned());
    while !bytes.is_empty() {
        let length = match resp::request_into(bytes, &mut request) {
            Ok(Some(length)) => length,
            Ok(None) => return Err("the settings end too early".to_owned()),
            Err(error) => return Err(format!("the settings can't be read: {error}")),
        };
        let words = request.arguments.iter().map(|range| text(&bytes[range.clone()])).collect::<Result<Vec<_>, _>>()?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["config", "set", name, value] => config.set_at_start(name, value).map_err(|why| format!("the setting {name}: {why}"))?,
            ["acl", "setuser", name, ref rules @ ..] => {
                let mut user = User::nobody(false);
                for rule in rules {
                    user.apply(rule.as_bytes(), false).map_err(|why| format!("the user {name}, {rule:?}: {why}"))?;
                }
                acl.users.insert(name.to_owned(), user);
            }
            _ => return Err("the settings hold something else than settings and users".to_owned()),
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_users_come_back() {
        let (mut config, mut acl) = (Config::default(), Acl::default());
        config.set("maxmemory", "100mb").unwrap();
        config.set("requirepass", "two words\r\n*1").unwrap();
        config.set_at_start("dir", "/elsewhere").unwrap();
        acl.set_default_password("two words\r\n*1");
        let mut worker = User::nobody(false);
        for rule in ["on", ">secret", "~queue:*", "~other", "&news:*", "-@all", "+@list", "+get", "-blpop"] {
            worker.apply(rule.as_bytes(), false).unwrap();
        }
        acl.users.insert("worker".to_owned(), worker);
        let bytes = encode(&config, &acl);
        let (mut config_again, mut acl_again) = (Config::default(), Acl::default());
        decode(&bytes, &mut config_again, &mut acl_again).unwrap();
        assert_eq!(config_again.get("maxmemory"), config.get("maxmemory"));
        assert_eq!(config_again.get("requirepass"), "two words\r\n*1");
        assert_ne!(config_again.get("dir"), "/elsewhere", "that is the next run's own");
        for (name, user) in &acl.users {
            assert_eq!(acl_again.users[name].show(name), user.show(name));
        }
        assert!(acl_again.users["default"].accepts(b"two words\r\n*1") && acl_again.initial().is_none());
        for cut in 1..bytes.len() {
            // Whole requests are fine; anything else is told.
            let _ = decode(&bytes[..cut], &mut Config::default(), &mut Acl::default());
        }
        assert!(decode(b"*1\r\n$8\r\nflushall\r\n", &mut Config::default(), &mut Acl::default()).is_err());
        assert!(decode(b"*3\r\n$3\r\nacl\r\n$7\r\nsetuser", &mut Config::default(), &mut Acl::default()).is_err());
    }
}
