//! A client that remembers what it was told, and finds out what became of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::model::{Entry, Maker, Model, Unit, Value};
use crate::redis::{Redis, Reply};

/// How long the database may be away.
const AWAY: Duration = Duration::from_secs(120);
/// Milliseconds by which a key's end may be early or late.
const SLACK: u64 = 500;
/// Units that are under way at most.
const UNITS: u64 = 8;

/// What the clients and who disturbs them share.
#[derive(Default)]
pub struct Common {
    /// No more is to be written.
    pub over: AtomicBool,
    /// A client has found something wrong.
    pub failed: AtomicBool,
    /// The disk is full, or was just now: writes may be refused.
    pub trouble: AtomicBool,
    /// Units that were acknowledged, by client.
    pub acknowledged: Vec<AtomicU64>,
    /// Connections that broke.
    pub broken: AtomicU64,
    /// Units of which nothing was known, and how many of these had been carried out.
    pub unknown: AtomicU64,
    /// See `unknown`.
    pub carried_out: AtomicU64,
    /// Writes that were refused while the disk was full.
    pub refused: AtomicU64,
    /// Times that all of a client's keys were compared.
    pub compared: AtomicU64,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// One connection's writes.
pub struct Client {
    number: usize,
    address: SocketAddr,
    password: String,
    prefix: String,
    model: Model,
    maker: Maker,
}

impl Client {
    /// The client of this number.
    pub fn new(number: usize, address: SocketAddr, password: &str, seed: u64) -> Client {
        let prefix = format!("client{number}");
        let maker = Maker::new(&prefix, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64));
        Client { number, address, password: password.to_owned(), prefix, model: Model::default(), maker }
    }

    /// Writes until it is over, and compares at the end.
    ///
    /// # Errors
    /// What was lost, or answered wrongly; or that nobody answers.
    pub fn run(&mut self, common: &Common) -> Result<(), String> {
        let mut redis = self.connect()?;
        while !common.over.load(Ordering::Relaxed) {
            let mut units = Vec::new();
            let mut ahead = self.model.clone();
            ahead.forget_before(now().saturating_sub(10_000));
            self.model = ahead.clone();
            for _ in 0..=self.maker.random.below(UNITS) {
                let unit = self.maker.unit(&ahead, now());
                unit.apply(&mut ahead);
                units.push(unit);
            }
            let answered = self.send(&mut redis, &units, common)?;
            if answered < units.len() {
                common.broken.fetch_add(1, Ordering::Relaxed);
                redis = self.find_out(&units[answered..], common)?;
            }
        }
        self.compare(common)
    }

    /// Compares what is there with what must be.
    ///
    /// # Errors
    /// As [`Client::run`].
    pub fn compare(&mut self, common: &Common) -> Result<(), String> {
        self.find_out(&[], common).map(drop)
    }

    /// Sends units. How many of them, from the first, were answered before the connection broke.
    fn send(&mut self, redis: &mut Redis, units: &[Unit], common: &Common) -> Result<usize, String> {
        for request in units.iter().flat_map(Unit::requests) {
            if redis.send(&request).is_err() {
                // What came before may have been carried out, and even been answered.
                return Ok(0);
            }
        }
        for (at, unit) in units.iter().enumerate() {
            let mut after = self.model.clone();
            let expected = unit.apply(&mut after);
            let mut replies = Vec::new();
            for _ in unit.requests() {
                match redis.receive() {
                    Ok(reply) => replies.push(reply),
                    Err(_) => return Ok(at),
                }
            }
            let refused = matches!(replies.last(), Some(Reply::Error(_)));
            if refused && common.trouble.load(Ordering::Relaxed) {
                common.refused.fetch_add(1, Ordering::Relaxed);
            } else if unit.is_answered(&expected, &replies) {
                self.model = after;
                common.acknowledged[self.number].fetch_add(1, Ordering::Relaxed);
            } else {
                return Err(format!("{}: {unit:?} was answered by {replies:?}, and not by {expected:?}", self.prefix));
            }
        }
        Ok(units.len())
    }

    /// A connection that answers.
    fn connect(&self) -> Result<Redis, String> {
        let begin = Instant::now();
        loop {
            let why = match Redis::connect(self.address).and_then(|mut redis| Ok((redis.call(&["auth", &self.password])?, redis))) {
                Ok((Reply::Status(_), redis)) => return Ok(redis),
                Ok((reply, _)) => reply.text(),
                Err(error) => error.to_string(),
            };
            if begin.elapsed() > AWAY {
                return Err(format!("{}: nobody answers: {why}", self.prefix));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// After a connection broke: which of the units under way were carried out. Everything that was acknowledged before must be there, then
    /// as many of these as there are, from the first on, each of them whole, and nothing else.
    fn find_out(&mut self, units: &[Unit], common: &Common) -> Result<Redis, String> {
        let mut candidates = vec![self.model.clone()];
        for unit in units {
            let mut next = candidates.last().cloned().unwrap_or_default();
            unit.apply(&mut next);
            candidates.push(next);
        }
        let begin = Instant::now();
        let (redis, found, times) = loop {
            let mut redis = self.connect()?;
            let since = now();
            match self.read(&mut redis, candidates.iter().flat_map(|model| model.0.keys())) {
                Ok(found) => break (redis, found, (since, now())),
                Err(error) if begin.elapsed() > AWAY => return Err(format!("{}: nothing can be read: {error}", self.prefix)),
                Err(_) => {}
            }
        };
        common.compared.fetch_add(1, Ordering::Relaxed);
        common.unknown.fetch_add(units.len() as u64, Ordering::Relaxed);
        // What was carried out last counts: a unit may have changed nothing.
        let which = candidates.iter().rposition(|candidate| differences(candidate, &found, times).is_empty());
        let Some(which) = which else {
            let all: Vec<_> = candidates.iter().map(|candidate| differences(candidate, &found, times)).collect();
            let least = all.iter().min_by_key(|differences| differences.len()).cloned().unwrap_or_default();
            return Err(format!(
                "{}: acknowledged writes are lost, or others came to be; {} units were under way; what differs at least: {}",
                self.prefix,
                units.len(),
                least.join("; ")
            ));
        };
        common.carried_out.fetch_add(which as u64, Ordering::Relaxed);
        self.model = candidates.swap_remove(which);
        Ok(redis)
    }

    /// What the database has of these keys, and of others of this client.
    fn read<'a>(&self, redis: &mut Redis, keys: impl Iterator<Item = &'a String>) -> Result<BTreeMap<String, Entry>, String> {
        let mut keys: BTreeSet<String> = keys.cloned().collect();
        let mut ask = |words: &[&str]| match redis.call(words) {
            Ok(Reply::Error(why)) => Err(format!("{words:?}: {why}")),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        };
        let Reply::Array(there) = ask(&["keys", &format!("{}:*", self.prefix)])? else { return Err("KEYS gave no array".to_owned()) };
        keys.extend(there.iter().map(Reply::text));
        let mut found = BTreeMap::new();
        for key in keys {
            let kind = ask(&["type", &key])?.text();
            let expires = ask(&["pexpiretime", &key])?;
            let reply = match kind.as_str() {
                "none" => continue,
                "string" => ask(&["get", &key])?,
                "list" => ask(&["lrange", &key, "0", "-1"])?,
                "hash" => ask(&["hgetall", &key])?,
                "set" => ask(&["smembers", &key])?,
                "zset" => ask(&["zrange", &key, "0", "-1", "withscores"])?,
                "stream" => ask(&["xrange", &key, "-", "+"])?,
                other => return Err(format!("{key} is a {other}")),
            };
            let expires = match expires {
                Reply::Integer(-1) => None,
                Reply::Integer(at) if at >= 0 => Some(at as u64),
                // It went between the questions.
                _ => continue,
            };
            if let Some(value) = value(&kind, reply) {
                found.insert(key, Entry { value, expires });
            }
        }
        Ok(found)
    }
}

/// A value as it was read. `None`: it went between the questions, or can't be understood; it is then missed.
fn value(kind: &str, reply: Reply) -> Option<Value> {
    if let ("string", Reply::Bulk(bytes)) = (kind, &reply) {
        return String::from_utf8(bytes.clone()).ok().map(Value::Text);
    }
    let Reply::Array(elements) = reply else { return None };
    if elements.is_empty() {
        return None;
    }
    if kind == "stream" {
        let entry = |entry: &Reply| {
            let Reply::Array(parts) = entry else { return None };
            let [id, Reply::Array(fields)] = parts.as_slice() else { return None };
            Some((id.text().strip_suffix("-1")?.parse().ok()?, fields.get(1)?.text()))
        };
        return elements.iter().map(entry).collect::<Option<_>>().map(Value::Stream);
    }
    let texts: Vec<String> = elements.iter().map(Reply::text).collect();
    let pairs = || texts.chunks(2).filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())));
    Some(match kind {
        "list" => Value::List(texts.into()),
        "set" => Value::Set(texts.into_iter().collect()),
        "hash" => Value::Hash(pairs().collect()),
        _ => Value::Sorted(pairs().map(|(member, score)| Some((member, score.parse().ok()?))).collect::<Option<_>>()?),
    })
}

/// What of this was found otherwise, between these two times. A key that expires may be there until its time, and may not be after it.
fn differences(wanted: &Model, found: &BTreeMap<String, Entry>, (since, until): (u64, u64)) -> Vec<String> {
    let short = |entry: Option<&Entry>| {
        let text = entry.map_or_else(|| "nothing".to_owned(), |entry| format!("{entry:?}"));
        text.chars().take(300).collect::<String>()
    };
    let mut differences = Vec::new();
    for key in wanted.0.keys().chain(found.keys().filter(|key| !wanted.0.contains_key(*key))) {
        let (own, its) = (wanted.0.get(key), found.get(key));
        let fits = match (own, its) {
            (Some(own), Some(its)) => own == its && own.expires.is_none_or(|at| at + SLACK >= since),
            (Some(own), None) => own.expires.is_some_and(|at| at <= until + SLACK),
            (None, _) => false,
        };
        if !fits {
            differences.push(format!("{key} is {} and should be {}", short(its), short(own)));
        }
    }
    differences
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn model(entries: &[(&str, &str, Option<u64>)]) -> Model {
        let entry = |text: &str, expires| Entry { value: Value::Text(text.to_owned()), expires };
        Model(entries.iter().map(|(key, text, expires)| ((*key).to_owned(), entry(text, *expires))).collect())
    }

    #[test]
    fn what_is_lost_is_found() {
        let wanted = model(&[("a", "1", None), ("b", "2", Some(10_000))]);
        let same = |found: &[(&str, &str, Option<u64>)], time| differences(&wanted, &model(found).0, (time, time)).is_empty();
        assert!(same(&[("a", "1", None), ("b", "2", Some(10_000))], 5000));
        assert!(same(&[("a", "1", None)], 20_000), "it has expired");
        assert!(!same(&[("a", "1", None), ("b", "2", Some(10_000))], 20_000), "it has not expired");
        assert!(!same(&[("a", "1", None)], 5000), "it went too early");
        assert!(!same(&[("b", "2", Some(10_000))], 5000), "one is lost");
        assert!(!same(&[("a", "0", None), ("b", "2", Some(10_000))], 5000), "one is old");
        assert!(!same(&[("a", "1", None), ("b", "2", Some(10_000)), ("c", "3", None)], 5000), "one came back");
    }

    #[test]
    fn values_are_read_as_they_are_kept() {
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
        let array = |texts: &[&str]| Reply::Array(texts.iter().map(|text| bulk(text)).collect());
        assert_eq!(value("zset", array(&["m", "3"])), Some(Value::Sorted([("m".to_owned(), 3)].into())));
        assert_eq!(value("hash", array(&["f", "v"])), Some(Value::Hash([("f".to_owned(), "v".to_owned())].into())));
        let entry = Reply::Array(vec![bulk("7-1"), array(&["field", "v"])]);
        assert_eq!(value("stream", Reply::Array(vec![entry])), Some(Value::Stream(vec![(7, "v".to_owned())])));
        assert_eq!(value("list", Reply::Array(vec![])), None);
    }
}
