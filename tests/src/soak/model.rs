//! What one client's keys must hold: every write, carried out here too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::redis::Reply;

/// Elements that a value has at most.
const MOST: u64 = 40;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A list.
    List(VecDeque<String>),
    /// A hash.
    Hash(BTreeMap<String, String>),
    /// A set.
    Set(BTreeSet<String>),
    /// A sorted set.
    Sorted(BTreeMap<String, i64>),
    /// A stream: ids and their one field's value.
    Stream(Vec<(u64, String)>),
}

/// A key's value, and when it expires, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Value.
    pub value: Value,
    /// Expiry.
    pub expires: Option<u64>,
}

/// All keys of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<String, Entry>);

/// A command.
#[derive(Clone, Debug)]
pub struct Op {
    /// Its words, the key second.
    pub words: Vec<String>,
}

/// Numbers that look random.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

fn op(words: &[&str]) -> Op {
    Op { words: words.iter().map(|word| (*word).to_owned()).collect() }
}

/// What goes together: one command, a transaction or a script.
#[derive(Clone, Debug)]
pub enum Unit {
    /// A command.
    One(Op),
    /// MULTI, commands, EXEC.
    Transaction(Vec<Op>),
    /// A script that calls them.
    Script(Vec<Op>),
}

/// Calls what is in its arguments: for each command the count of its words, and they.
const SCRIPT: &str = "local at, out = 1, {} \
    while at <= #ARGV do \
        local count = tonumber(ARGV[at]) \
        out[#out + 1] = redis.call(unpack(ARGV, at + 1, at + count)) \
        at = at + count + 1 \
    end \
    return out";

impl Unit {
    /// The requests that it is sent by; one reply comes for each.
    pub fn requests(&self) -> Vec<Vec<String>> {
        match self {
            Unit::One(op) => vec![op.words.clone()],
            Unit::Transaction(ops) => {
                let begin = std::iter::once(vec!["MULTI".to_owned()]);
                begin.chain(ops.iter().map(|op| op.words.clone())).chain([vec!["EXEC".to_owned()]]).collect()
            }
            Unit::Script(ops) => {
                let mut words = vec!["EVAL".to_owned(), SCRIPT.to_owned(), "0".to_owned()];
                for op in ops {
                    words.push(op.words.len().to_string());
                    words.extend(op.words.iter().cloned());
                }
                vec![words]
            }
        }
    }

    /// Carries it out in the model. What the last of its replies must be; `None` where that is known to the server alone.
    pub fn apply(&self, model: &mut Model) -> Vec<Option<Reply>> {
        match self {
            Unit::One(op) => vec![model.apply(op)],
            Unit::Transaction(ops) | Unit::Script(ops) => ops.iter().map(|op| model.apply(op)).collect(),
        }
    }

    /// Whether these are the replies to it, given what [`Unit::apply`] expects.
    pub fn is_answered(&self, expected: &[Option<Reply>], replies: &[Reply]) -> bool {
        let fit = |replies: &[Reply]| {
            replies.len() == expected.len()
                && replies.iter().zip(expected).all(|(reply, wanted)| wanted.as_ref().is_none_or(|wanted| wanted == reply))
        };
        match (self, replies) {
            (Unit::One(_), replies) => fit(replies),
            (_, [.., Reply::Array(replies)]) => fit(replies),
            _ => false,
        }
    }
}

fn ok() -> Option<Reply> {
    Some(Reply::Status("OK".to_owned()))
}

fn count(number: usize) -> Option<Reply> {
    Some(Reply::Integer(number as i64))
}

fn bulk(text: Option<String>) -> Option<Reply> {
    Some(text.map_or(Reply::Null, |text| Reply::Bulk(text.into_bytes())))
}

impl Model {
    /// Forgets what expired so long ago that nobody can have it any more.
    pub fn forget_before(&mut self, time: u64) {
        self.0.retain(|_, entry| entry.expires.is_none_or(|expires| expires >= time));
    }

    fn value(&mut self, key: &str, empty: Value) -> &mut Value {
        &mut self.0.entry(key.to_owned()).or_insert(Entry { value: empty, expires: None }).value
    }

    /// Carries a command out. Its reply; `None` where that depends on what the server alone knows.
    fn apply(&mut self, op: &Op) -> Option<Reply> {
        let words: Vec<&str> = op.words.iter().map(String::as_str).collect();
        let key = words[1];
        let reply = match words.as_slice() {
            ["SET", _, value] => {
                self.0.insert(key.to_owned(), Entry { value: Value::Text((*value).to_owned()), expires: None });
                ok()
            }
            ["SET", _, value, "PXAT", at] => {
                self.0.insert(key.to_owned(), Entry { value: Value::Text((*value).to_owned()), expires: at.parse().ok() });
                ok()
            }
            ["DEL", _] => {
                let gone = self.0.remove(key);
                // Whether one that expires was there still is the server's to know.
                if key.contains(EXPIRING) { None } else { count(usize::from(gone.is_some())) }
            }
            ["PEXPIREAT", _, at] => {
                if let Some(entry) = self.0.get_mut(key) {
                    entry.expires = at.parse().ok();
                }
                None
            }
            ["RENAME", _, to] => {
                if let Some(entry) = self.0.remove(key) {
                    self.0.insert((*to).to_owned(), entry);
                }
                ok()
            }
            _ => self.change(key, &words),
        };
        let empty = match self.0.get(key).map(|entry| &entry.value) {
            Some(Value::List(list)) => list.is_empty(),
            Some(Value::Hash(hash)) => hash.is_empty(),
            Some(Value::Set(set)) => set.is_empty(),
            Some(Value::Sorted(sorted)) => sorted.is_empty(),
            Some(Value::Text(_) | Value::Stream(_)) | None => false,
        };
        if empty {
            self.0.remove(key);
        }
        reply
    }

    fn change(&mut self, key: &str, words: &[&str]) -> Option<Reply> {
        let own = |word: &str| word.to_owned();
        match words {
            ["APPEND", _, text] => {
                let Value::Text(value) = self.value(key, Value::Text(String::new())) else { return None };
                value.push_str(text);
                count(value.len())
            }
            ["INCRBY", _, by] => {
                let Value::Text(value) = self.value(key, Value::Text("0".to_owned())) else { return None };
                let sum = value.parse::<i64>().ok()? + by.parse::<i64>().ok()?;
                *value = sum.to_string();
                Some(Reply::Integer(sum))
            }
            [push @ ("LPUSH" | "RPUSH"), _, value] => {
                let Value::List(list) = self.value(key, Value::List(VecDeque::new())) else { return None };
                if *push == "LPUSH" {
                    list.push_front(own(value))
                } else {
                    list.push_back(own(value))
                }
                count(list.len())
            }
            [pop @ ("LPOP" | "RPOP"), _] => {
                let Value::List(list) = self.value(key, Value::List(VecDeque::new())) else { return None };
                bulk(if *pop == "LPOP" { list.pop_front() } else { list.pop_back() })
            }
            ["LTRIM", _, "0", last] => {
                let Value::List(list) = self.value(key, Value::List(VecDeque::new())) else { return None };
                list.truncate(last.parse::<usize>().ok()? + 1);
                ok()
            }
            ["HSET", _, field, value] => {
                let Value::Hash(hash) = self.value(key, Value::Hash(BTreeMap::new())) else { return None };
                count(usize::from(hash.insert(own(field), own(value)).is_none()))
            }
            ["HDEL", _, field] => {
                let Value::Hash(hash) = self.value(key, Value::Hash(BTreeMap::new())) else { return None };
                count(usize::from(hash.remove(*field).is_some()))
            }
            ["SADD", _, member] => {
                let Value::Set(set) = self.value(key, Value::Set(BTreeSet::new())) else { return None };
                count(usize::from(set.insert(own(member))))
            }
            ["SREM", _, member] => {
                let Value::Set(set) = self.value(key, Value::Set(BTreeSet::new())) else { return None };
                count(usize::from(set.remove(*member)))
            }
            ["ZADD", _, score, member] => {
                let Value::Sorted(sorted) = self.value(key, Value::Sorted(BTreeMap::new())) else { return None };
                count(usize::from(sorted.insert(own(member), score.parse().ok()?).is_none()))
            }
            ["ZINCRBY", _, by, member] => {
                let Value::Sorted(sorted) = self.value(key, Value::Sorted(BTreeMap::new())) else { return None };
                let score = sorted.entry(own(member)).or_default();
                *score += by.parse::<i64>().ok()?;
                bulk(Some(score.to_string()))
            }
            ["ZREM", _, member] => {
                let Value::Sorted(sorted) = self.value(key, Value::Sorted(BTreeMap::new())) else { return None };
                count(usize::from(sorted.remove(*member).is_some()))
            }
            ["XADD", _, id, _, value] => {
                let Value::Stream(stream) = self.value(key, Value::Stream(Vec::new())) else { return None };
                stream.push((id.strip_suffix("-1")?.parse().ok()?, own(value)));
                bulk(Some(own(id)))
            }
            ["XTRIM", _, "MAXLEN", "=", most] => {
                let Some(Entry { value: Value::Stream(stream), .. }) = self.0.get_mut(key) else { return count(0) };
                let over = stream.len().saturating_sub(most.parse().ok()?);
                stream.drain(..over);
                count(over)
            }
            _ => None,
        }
    }
}

/// Part of the names of keys that expire.
pub const EXPIRING: &str = ":expiring:";

/// Makes the writes of one client.
pub struct Maker {
    prefix: String,
    /// What is random in it.
    pub random: Random,
    /// Counts up: values and ids of streams are never the same twice.
    number: u64,
}

impl Maker {
    /// For keys that begin so.
    pub fn new(prefix: &str, seed: u64) -> Maker {
        Maker { prefix: prefix.to_owned(), random: Random(seed | 1), number: 0 }
    }

    /// A unit that is right in this state, at this time in milliseconds since 1970.
    pub fn unit(&mut self, model: &Model, now: u64) -> Unit {
        match self.random.below(10) {
            0 | 1 => {
                let ops = self.several(model);
                Unit::Transaction(ops)
            }
            2 | 3 => {
                let ops = self.several(model);
                Unit::Script(ops)
            }
            4 => self.expiring(now),
            _ => Unit::One(self.op(model)),
        }
    }

    fn several(&mut self, model: &Model) -> Vec<Op> {
        // Each is chosen by the state that those before it leave.
        let mut after = model.clone();
        let mut ops = Vec::new();
        for _ in 0..2 + self.random.below(4) {
            let op = self.op(&after);
            after.apply(&op);
            ops.push(op);
        }
        ops
    }

    fn fresh(&mut self) -> String {
        self.number += 1;
        format!("{}-{}", self.number, "v".repeat(self.random.below(60) as usize))
    }

    /// A key that goes by itself, soon.
    fn expiring(&mut self, now: u64) -> Unit {
        let key = format!("{}{EXPIRING}{}", self.prefix, self.random.below(10));
        let at = (now + 200 + self.random.below(8000)).to_string();
        let value = self.fresh();
        let kind = self.random.below(4);
        if kind == 0 {
            return Unit::One(op(&["SET", &key, &value, "PXAT", &at]));
        }
        let make = match kind {
            1 => op(&["RPUSH", &key, &value]),
            2 => op(&["HSET", &key, "field", &value]),
            _ => op(&["SADD", &key, &value]),
        };
        Unit::Transaction(vec![op(&["DEL", &key]), make, op(&["PEXPIREAT", &key, &at])])
    }

    fn op(&mut self, model: &Model) -> Op {
        let kind = ["text", "number", "list", "hash", "set", "sorted", "stream"][self.random.below(7) as usize];
        let key = format!("{}:{kind}:{}", self.prefix, self.random.below(6));
        let there = model.0.contains_key(&key);
        let (choice, element, value) = (self.random.below(8), self.random.below(MOST).to_string(), self.fresh());
        if there && self.random.below(60) == 0 {
            return op(&["DEL", &key]);
        }
        if there && self.random.below(60) == 0 {
            let to = format!("{}:{kind}:{}", self.prefix, self.random.below(6));
            if to != key {
                return op(&["RENAME", &key, &to]);
            }
        }
        match (kind, choice) {
            ("text", 0..=3) => op(&["SET", &key, &value]),
            ("text", _) if model.0.get(&key).is_some_and(|entry| matches!(&entry.value, Value::Text(text) if text.len() > 2000)) => {
                op(&["SET", &key, &value])
            }
            ("text", _) => op(&["APPEND", &key, &value]),
            ("number", _) => op(&["INCRBY", &key, &(self.random.below(200) as i64 - 100).to_string()]),
            ("list", 0) => op(&["LTRIM", &key, "0", &(MOST - 1).to_string()]),
            ("list", 1) => op(&["LPOP", &key]),
            ("list", 2) => op(&["RPOP", &key]),
            ("list", 3 | 4) => op(&["LPUSH", &key, &value]),
            ("list", _) => op(&["RPUSH", &key, &value]),
            ("hash", 0..=2) => op(&["HDEL", &key, &element]),
            ("hash", _) => op(&["HSET", &key, &element, &value]),
            ("set", 0..=2) => op(&["SREM", &key, &element]),
            ("set", _) => op(&["SADD", &key, &element]),
            ("sorted", 0 | 1) => op(&["ZREM", &key, &element]),
            ("sorted", 2 | 3) => op(&["ZINCRBY", &key, &(self.random.below(20) as i64 - 10).to_string(), &element]),
            ("sorted", _) => op(&["ZADD", &key, &self.random.below(1000).to_string(), &element]),
            (_, 0) => op(&["XTRIM", &key, "MAXLEN", "=", &MOST.to_string()]),
            _ => {
                self.number += 1;
                op(&["XADD", &key, &format!("{}-1", self.number), "field", &value])
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_do_what_they_do() {
        let mut model = Model::default();
        let mut ask = |words: &[&str]| model.apply(&op(words));
        assert_eq!(ask(&["RPUSH", "l", "a"]), count(1));
        assert_eq!(ask(&["LPUSH", "l", "b"]), count(2));
        assert_eq!(ask(&["RPOP", "l"]), bulk(Some("a".into())));
        assert_eq!(ask(&["RPOP", "l"]), bulk(Some("b".into())));
        assert_eq!(ask(&["RPOP", "l"]), bulk(None));
        assert_eq!(ask(&["INCRBY", "n", "-5"]), Some(Reply::Integer(-5)));
        assert_eq!(ask(&["XADD", "s", "7-1", "field", "v"]), bulk(Some("7-1".into())));
        assert_eq!(ask(&["ZINCRBY", "z", "3", "m"]), bulk(Some("3".into())));
        assert_eq!(model.0.keys().collect::<Vec<_>>(), ["n", "s", "z"]);
    }

    #[test]
    fn replies_are_compared() {
        let unit = Unit::Transaction(vec![op(&["SET", "a", "1"]), op(&["INCRBY", "a", "1"])]);
        let expected = unit.apply(&mut Model::default());
        let queued = || Reply::Status("QUEUED".into());
        let replies =
            |sum| vec![Reply::Status("OK".into()), queued(), queued(), Reply::Array(vec![Reply::Status("OK".into()), Reply::Integer(sum)])];
        assert!(unit.is_answered(&expected, &replies(2)));
        assert!(!unit.is_answered(&expected, &replies(3)));
        assert!(!unit.is_answered(&expected, &[Reply::Null]));
        assert_eq!(unit.requests().len(), 4);
    }

    #[test]
    fn a_maker_makes_all_kinds_and_keeps_them_small() {
        let (mut model, mut maker) = (Model::default(), Maker::new("c", 7));
        for now in 0..20_000 {
            maker.unit(&model, now).apply(&mut model);
            model.forget_before(now);
        }
        for kind in ["text", "number", "list", "hash", "set", "sorted", "stream", "expiring"] {
            assert!(model.0.keys().any(|key| key.contains(kind)), "{kind}");
        }
        assert!(model.0.len() < 60);
    }
}
