use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{End, FULL, Item, Queue};
use crate::value::{Hash, Limits, Text};

/// What there is, in a form that can be compared: database and key; the value as text; the time.
type Content = BTreeMap<(usize, Vec<u8>), (String, Option<i64>)>;

fn show(value: &Value) -> String {
    match value {
        Value::Hash(hash) => {
            let fields: BTreeMap<_, _> = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
            format!("{fields:?}")
        }
        other => format!("{other:?}"),
    }
}

fn content(store: &Store) -> Content {
    let mut all = Content::new();
    for (number, database) in store.databases.iter().enumerate() {
        for (key, entry) in database.entries.iter() {
            all.insert((number, key.to_vec()), (show(&entry.value), (entry.expires != 0).then_some(entry.expires)));
        }
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u16, i64),
    SetFor(usize, u16, i64),
    Append(usize, u16),
    Field(usize, u16, u8),
    Remove(usize, u16),
    Expires(usize, u16, Option<i64>),
    Rename(usize, u16, u16),
    Flush(usize),
    Swap(usize, usize),
    Time(i64),
    ExpireSome(usize),
    Walk(u8),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let (db, key) = (0usize..3, 0u16..400);
    prop_oneof![
        6 => (db.clone(), key.clone(), any::<i64>()).prop_map(|(d, k, v)| Step::Set(d, k, v)),
        2 => (db.clone(), key.clone(), 1i64..200).prop_map(|(d, k, t)| Step::SetFor(d, k, t)),
        4 => (db.clone(), key.clone()).prop_map(|(d, k)| Step::Append(d, k)),
        4 => (db.clone(), key.clone(), any::<u8>()).prop_map(|(d, k, f)| Step::Field(d, k, f)),
        4 => (db.clone(), key.clone()).prop_map(|(d, k)| Step::Remove(d, k)),
        2 => (db.clone(), key.clone(), prop::option::of(1i64..200)).prop_map(|(d, k, t)| Step::Expires(d, k, t)),
        2 => (db.clone(), key.clone(), key).prop_map(|(d, a, b)| Step::Rename(d, a, b)),
        1 => db.clone().prop_map(Step::Flush),
        1 => (db.clone(), db.clone()).prop_map(|(a, b)| Step::Swap(a, b)),
        1 => (1i64..60).prop_map(Step::Time),
        1 => db.prop_map(Step::ExpireSome),
        3 => (1u8..4).prop_map(Step::Walk),
        1 => Just(Step::Take),
    ]
}

fn key(number: u16) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn act(store: &mut Store, step: &Step, taken: &mut Vec<Item>, queue: Option<&Queue>) {
    match *step {
        Step::Set(d, k, v) => store.set(d, &key(k), Value::Text(Text::Integer(v)), Expiry::Keep),
        Step::SetFor(d, k, t) => store.set(d, &key(k), Value::Text(Text::new(b"short")), Expiry::At(store.now + t)),
        Step::Append(d, k) => match store.edit_or(d, &key(k), || Value::Text(Text::new(b"x"))) {
            Value::Text(text) => text.bytes_mut().push(b'y'),
            other => *other = Value::Text(Text::new(b"was a hash")),
        },
        Step::Field(d, k, f) => match store.edit_or(d, &key(k), || Value::Hash(Arc::default())) {
            Value::Hash(hash) => drop(Arc::make_mut(hash).insert(&[f], &[f; 70], &Limits::default())),
            other => *other = Value::Hash(Arc::new(Hash::default())),
        },
        Step::Remove(d, k) => drop(store.remove(d, &key(k))),
        Step::Expires(d, k, t) => drop(store.set_expires(d, &key(k), t.map(|t| store.now + t))),
        Step::Rename(d, a, b) => {
            if let Some((value, expires)) = store.remove(d, &key(a)) {
                store.set(d, &key(b), value, expires.map_or(Expiry::Never, Expiry::At));
            }
        }
        Step::Flush(d) => store.flush(d),
        Step::Swap(a, b) => store.swap(a, b),
        Step::Time(t) => store.now += t,
        Step::ExpireSome(d) => drop(store.expire_some(d, &mut 0, 50)),
        Step::Walk(n) => (0..n).for_each(|_| {
            store.walk();
        }),
        Step::Take => {
            if let Some(queue) = queue
                && queue.weight() > 0
            {
                taken.extend(queue.take().unwrap_or_default());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done meanwhile, a snapshot is what there was when it began: each entry, once.
    #[test]
    fn a_snapshot_is_one_point_in_time(before in prop::collection::vec(step(), 0..400), during in prop::collection::vec(step(), 0..200)) {
        let mut store = Store::new(3);
        store.now = 1000;
        let mut taken = Vec::new();
        before.iter().for_each(|step| act(&mut store, step, &mut taken, None));
        // A first snapshot that is given up leaves nothing behind.
        let given_up = store.begin_snapshot(usize::MAX).unwrap();
        if store.walk() == Walked::More {
            store.abort_snapshot("it was told to");
            prop_assert_eq!(given_up.take().unwrap_err(), End::Aborted("it was told to".into()));
        }

        let then = content(&store);
        let queue = store.begin_snapshot(usize::MAX).unwrap();
        prop_assert!(store.begin_snapshot(1).is_none());
        during.iter().for_each(|step| act(&mut store, step, &mut taken, Some(&queue)));
        while !matches!(store.walk(), Walked::Done | Walked::Nothing) {}
        loop {
            match queue.take() {
                Ok(items) => taken.extend(items),
                Err(end) => {
                    prop_assert_eq!(end, End::Complete);
                    break;
                }
            }
        }
        let count = taken.len();
        let seen: Content = taken.into_iter().map(|item| ((item.database, item.key.into_vec()), (show(&item.value), item.expires))).collect();
        prop_assert_eq!(count, seen.len(), "an entry came twice");
        prop_assert_eq!(seen, then);
    }
}

#[test]
fn writes_that_hand_over_too_much_end_the_snapshot() {
    let mut store = Store::new(1);
    let large = || Value::Text(Text::new(&vec![b'x'; 1 << 20]));
    (0..40).for_each(|k| store.set(0, &key(k), large(), Expiry::Never));
    let queue = store.begin_snapshot(FULL + (4 << 20)).unwrap();
    (0..40).for_each(|k| store.set(0, &key(k), large(), Expiry::Never));
    assert!(!store.is_walking());
    assert!(matches!(queue.take(), Err(End::Aborted(why)) if why.contains("snapshot-buffer")));
    assert!(store.begin_snapshot(FULL).is_some(), "the next one may begin");
}

#[test]
fn what_a_snapshot_was_given_has_a_pace() {
    let mut store = Store::new(1);
    assert!(!store.is_given_more(0), "there is none");
    (0..2).for_each(|k| store.set(0, &key(k), Value::Text(Text::new(&[b'x'; 1 << 20])), Expiry::Never));
    let _queue = store.begin_snapshot(usize::MAX).unwrap();
    assert!(!store.is_given_more(0), "it was given nothing");
    store.set(0, &key(0), Value::Text(Text::Integer(1)), Expiry::Never);
    assert!(store.is_given_more(1) && !store.is_given_more(usize::MAX), "a write counts");
}

#[test]
fn what_nobody_takes_is_not_kept() {
    let mut store = Store::new(1);
    (0..1000).for_each(|k| store.set(0, &key(k), Value::Text(Text::Integer(1)), Expiry::Never));
    let queue = store.begin_snapshot(usize::MAX).unwrap();
    store.walk();
    queue.desert();
    assert_eq!((store.walk(), queue.weight()), (Walked::Done, 0));
    assert!(!store.is_walking());
}

#[test]
fn watched_keys_tell_of_changes() {
    let mut store = Store::new(2);
    store.set(0, b"a", Value::Text(Text::Integer(1)), Expiry::At(10));
    for (change, expected) in [
        (Box::new(|_: &mut Store| {}) as Box<dyn Fn(&mut Store)>, false),
        (Box::new(|store| assert!(store.get(0, b"a").is_some())), false),
        (Box::new(|store| store.set(1, b"a", Value::Text(Text::Integer(2)), Expiry::Never)), false),
        (Box::new(|store| assert!(store.edit(0, b"a").is_some())), true),
        (Box::new(|store| assert!(store.set_expires(0, b"a", Some(10)))), true),
        (Box::new(|store| store.swap(0, 1)), true),
        (Box::new(|store| store.swap(0, 1)), true),
        (Box::new(|store| store.now = 20), true),
    ] {
        let version = store.watch(0, b"a");
        change(&mut store);
        assert_eq!(store.unwatch(0, b"a", version), expected);
    }
    assert!(store.interests.iter().all(HashMap::is_empty));
}

#[test]
fn what_is_over_is_dropped_by_a_scan_and_looked_at_by_who_waits_for_it() {
    let mut store = Store::new(2);
    store.logs = true;
    for key in [&b"a"[..], b"b", b"c"] {
        store.set(1, key, Value::Text(Text::Integer(1)), Expiry::At(10));
    }
    store.set(1, b"stays", Value::Text(Text::Integer(1)), Expiry::Never);
    store.now = 20;
    store.await_key(0, b"a");
    store.filled();
    store.swap(0, 1);
    // Nobody else would tell replicas that it is gone.
    assert_eq!(store.filled(), [(0, Box::from(&b"a"[..]))]);
    assert!(store.get(0, b"a").is_none());
    let mut seen = Vec::new();
    assert_eq!(store.scan_and_expire(0, 0, 100, |key, _| seen.push(key.to_vec())), 0);
    assert_eq!((seen, store.len(0)), (vec![b"stays".to_vec()], 1));
    let mut dropped: Vec<Vec<u8>> = store.dropped.drain(..).map(|(_, key)| key.into()).collect();
    dropped.sort();
    assert_eq!(dropped, [b"a", b"b", b"c"]);
}
