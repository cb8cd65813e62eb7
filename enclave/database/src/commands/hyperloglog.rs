//! HyperLogLog: how many different elements there were, in 12 KB. The representation is Redis's (`hyperloglog.c`), so that values can move
//! between the two. Counting: Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017, algorithm 6.

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::store::Expiry;
use crate::value::{Text, Value};

pub const COMMANDS: &[Command] = &[
    command("pfadd", -2, Kind::Grow, (1, 1, 1), pfadd).with(flag::FAST),
    command("pfcount", -2, Kind::Read, (1, -1, 1), pfcount),
    command("pfmerge", -2, Kind::Grow, (1, -1, 1), pfmerge),
    command("pfselftest", 1, Kind::Server, (0, 0, 0), pfselftest).with(flag::ADMIN),
    command("pfdebug", 3, Kind::Write, (2, 2, 1), pfdebug).with(flag::ADMIN),
];

/// Bits of a hash that choose the register, and how many registers that makes.
const BITS: u32 = 14;
const REGISTERS: usize = 1 << BITS;
/// Bits of the hash that are left for the run of zeros.
const LEFT: usize = 64 - BITS as usize;
const HEADER: usize = 16;
const DENSE: usize = HEADER + REGISTERS * 6 / 8;
/// Highest value of a register in the sparse form.
const SPARSE_MOST: u8 = 32;

/// MurmurHash64A (Appleby), as Redis seeds it.
fn hash(bytes: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut sum = 0xadc8_3b19 ^ (bytes.len() as u64).wrapping_mul(M);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut word = word.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte)).wrapping_mul(M);
        word ^= word >> 47;
        sum = (sum ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        sum = (sum ^ rest.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))).wrapping_mul(M);
    }
    sum = (sum ^ sum >> 47).wrapping_mul(M);
    sum ^ sum >> 47
}

/// The register of an element, and the value that it wants there.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = hash(element);
    let rest = hash >> BITS | 1 << LEFT;
    (hash as usize & (REGISTERS - 1), rest.trailing_zeros() as u8 + 1)
}

fn dense_get(registers: &[u8], at: usize) -> u8 {
    let (byte, shift) = (at * 6 / 8, at * 6 % 8);
    let high = registers.get(byte + 1).copied().unwrap_or(0);
    ((u16::from(registers[byte]) | u16::from(high) << 8) >> shift) as u8 & 63
}

fn dense_set(registers: &mut [u8], at: usize, value: u8) {
    let (byte, shift) = (at * 6 / 8, at * 6 % 8);
    let (mask, value) = (63u16 << shift, u16::from(value) << shift);
    registers[byte] = registers[byte] & !(mask as u8) | value as u8;
    if shift > 2 {
        registers[byte + 1] = registers[byte + 1] & !((mask >> 8) as u8) | (value >> 8) as u8;
    }
}

/// A value, unpacked.
struct Counter {
    registers: Vec<u8>,
    dense: bool,
}

fn corrupted() -> Error {
    Error::Other("INVALIDOBJ Corrupted HLL object detected".to_owned())
}

/// Whether these bytes say that they are one.
fn check(bytes: &[u8]) -> Result<(), Error> {
    let fits = bytes.len() >= HEADER && bytes.starts_with(b"HYLL") && bytes[4] <= 1 && (bytes[4] == 1 || bytes.len() == DENSE);
    let wrong = || Error::Other("WRONGTYPE Key is not a valid HyperLogLog string value.".to_owned());
    if fits { Ok(()) } else { Err(wrong()) }
}

impl Counter {
    fn new() -> Counter {
        Counter { registers: vec![0; REGISTERS], dense: false }
    }

    fn unpack(bytes: &[u8]) -> Result<Counter, Error> {
        check(bytes)?;
        let body = &bytes[HEADER..];
        if bytes[4] == 0 {
            return Ok(Counter { registers: (0..REGISTERS).map(|at| dense_get(body, at)).collect(), dense: true });
        }
        let mut registers = Vec::with_capacity(REGISTERS);
        let mut codes = body.iter().copied();
        while let Some(code) = codes.next() {
            let (value, run) = match code >> 6 {
                0 => (0, usize::from(code & 63) + 1),
                1 => (0, (usize::from(code & 63) << 8 | usize::from(codes.next().ok_or_else(corrupted)?)) + 1),
                _ => ((code >> 2 & 31) + 1, usize::from(code & 3) + 1),
            };
            if registers.len() + run > REGISTERS {
                return Err(corrupted());
            }
            registers.resize(registers.len() + run, value);
        }
        if registers.len() == REGISTERS { Ok(Counter { registers, dense: false }) } else { Err(corrupted()) }
    }

    /// The sparse form. `None`: it can't be, or is longer than it may.
    fn sparse(&self, most: usize) -> Option<Vec<u8>> {
        let mut codes = Vec::new();
        for run in self.registers.chunk_by(|a, b| a == b) {
            let (value, mut left) = (run[0], run.len());
            if value > SPARSE_MOST {
                return None;
            }
            while left > 0 {
                let count = match value {
                    0 if left > 64 => {
                        codes.extend([0x40 | ((left - 1) >> 8) as u8, (left - 1) as u8]);
                        left
                    }
                    0 => {
                        codes.push(left as u8 - 1);
                        left
                    }
                    _ => {
                        let count = left.min(4);
                        codes.push(0x80 | (value - 1) << 2 | (count as u8 - 1));
                        count
                    }
                };
                left -= count;
            }
            if codes.len() + HEADER > most {
                return None;
            }
        }
        Some(codes)
    }

    /// The bytes of the value, without a known count.
    fn pack(&self, most: usize) -> Vec<u8> {
        let mut bytes = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80".to_vec();
        match self.sparse(most).filter(|_| !self.dense) {
            Some(codes) => bytes.extend(codes),
            None => {
                bytes[4] = 0;
                bytes.resize(DENSE, 0);
                self.registers.iter().enumerate().for_each(|(at, value)| dense_set(&mut bytes[HEADER..], at, *value));
            }
        }
        bytes
    }

    fn merge(&mut self, other: &Counter) {
        self.dense |= other.dense;
        self.registers.iter_mut().zip(&other.registers).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
    }

    fn count(&self) -> u64 {
        let mut histogram = [0f64; 64];
        self.registers.iter().for_each(|value| histogram[usize::from(*value & 63)] += 1.0);
        let m = REGISTERS as f64;
        let mut z = m * tau((m - histogram[LEFT + 1]) / m);
        for count in histogram[1..=LEFT].iter().rev() {
            z = (z + count) * 0.5;
        }
        z += m * sigma(histogram[0] / m);
        (0.721_347_520_444_481_7 * m * m / z).round() as u64
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    // It converges in some dozen steps.
    for _ in 0..1000 {
        let before = z;
        x = x.sqrt();
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            break;
        }
    }
    z / 3.0
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    for _ in 0..1000 {
        let before = z;
        x *= x;
        z += x * y;
        y += y;
        if z == before {
            break;
        }
    }
    z
}

fn text(context: &mut Context<'_>, at: usize) -> Result<Option<Text>, Error> {
    match context.read(at) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Error::WrongType),
    }
}

fn longest(context: &Context<'_>) -> usize {
    usize::try_from(context.shared.config.number("hll-sparse-max-bytes")).unwrap_or(3000).saturating_add(HEADER)
}

fn put(context: &mut Context<'_>, at: usize, bytes: Vec<u8>) {
    let (db, key) = (context.db(), context.arg(at));
    context.store.set(db, key, Value::Text(Text::from_bits(bytes)), Expiry::Keep);
    context.notify(event::STRING, "pfadd", key);
}

fn pfadd(context: &mut Context<'_>) -> Done {
    let old = text(context, 1)?;
    let places: Vec<(usize, u8)> = context.args[2..].iter().map(|element| place(element)).collect();
    let most = longest(context);
    let changed = match old {
        Some(old) => {
            let bytes = old.bytes();
            check(&bytes)?;
            let is_dense = bytes[4] == 0;
            if is_dense {
                let higher = |(at, value): &(usize, u8)| dense_get(&bytes[HEADER..], *at) < *value;
                let changed = places.iter().any(higher);
                drop(bytes);
                drop(old);
                if changed {
                    raise_dense(context, &places);
                }
                changed
            } else {
                let mut counter = Counter::unpack(&bytes)?;
                let mut changed = false;
                for (at, value) in places {
                    changed |= counter.registers[at] < value;
                    counter.registers[at] = counter.registers[at].max(value);
                }
                if changed {
                    put(context, 1, counter.pack(most));
                }
                changed
            }
        }
        None => {
            let mut counter = Counter::new();
            places.into_iter().for_each(|(at, value)| counter.registers[at] = counter.registers[at].max(value));
            put(context, 1, counter.pack(most));
            true
        }
    };
    context.reply.integer(changed.into());
    Ok(())
}

/// Raises registers in place.
fn raise_dense(context: &mut Context<'_>, places: &[(usize, u8)]) {
    let (db, key) = (context.db(), context.arg(1));
    if let Some(Value::Text(text)) = context.store.edit(db, key) {
        let bytes = text.bytes_mut();
        for (at, value) in places {
            if dense_get(&bytes[HEADER..], *at) < *value {
                dense_set(&mut bytes[HEADER..], *at, *value);
            }
        }
        // The count in the header is no longer right.
        bytes[15] |= 0x80;
    }
    context.notify(event::STRING, "pfadd", key);
}

fn pfcount(context: &mut Context<'_>) -> Done {
    if context.args.len() > 2 {
        let mut all = Counter::new();
        for at in 1..context.args.len() {
            if let Some(text) = text(context, at)? {
                all.merge(&Counter::unpack(&text.bytes())?);
            }
        }
        context.reply.count(all.count() as usize);
        return Ok(());
    }
    let Some(text) = text(context, 1)? else {
        context.reply.count(0);
        return Ok(());
    };
    let bytes = text.bytes();
    check(&bytes)?;
    let known = u64::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]]);
    if known >> 63 == 0 {
        context.reply.count(known as usize);
        return Ok(());
    }
    let count = Counter::unpack(&bytes)?.count();
    drop(bytes);
    drop(text);
    let (db, key) = (context.db(), context.arg(1));
    if let Some(Value::Text(text)) = context.store.edit(db, key) {
        text.bytes_mut()[8..16].copy_from_slice(&count.to_le_bytes());
    }
    context.reply.count(count as usize);
    Ok(())
}

fn pfmerge(context: &mut Context<'_>) -> Done {
    let mut all = Counter::new();
    for at in 1..context.args.len() {
        if let Some(text) = text(context, at)? {
            all.merge(&Counter::unpack(&text.bytes())?);
        }
    }
    let most = longest(context);
    put(context, 1, all.pack(most));
    context.reply.ok();
    Ok(())
}

/// Whether registers keep what they are told, and counts are as near as they must be.
fn pfselftest(context: &mut Context<'_>) -> Done {
    let mut random = context.random();
    let (mut packed, mut wanted) = (vec![0; DENSE - HEADER], vec![0u8; REGISTERS]);
    for _ in 0..10 {
        for (at, wanted) in wanted.iter_mut().enumerate() {
            *wanted = random(64) as u8;
            dense_set(&mut packed, at, *wanted);
        }
        if let Some(at) = (0..REGISTERS).find(|at| dense_get(&packed, *at) != wanted[*at]) {
            return Err(Error::new(format_args!("TESTFAILED Register {at} should be {} but is {}", wanted[at], dense_get(&packed, at))));
        }
    }
    let mut counter = Counter::new();
    let seed = random(1 << 30) as u64;
    for number in 1..=100_000u64 {
        let (at, value) = place(&(seed << 32 | number).to_le_bytes());
        counter.registers[at] = counter.registers[at].max(value);
        // Seven times the standard error: a right one does not fail by chance.
        if [100, 1_000, 10_000, 100_000].contains(&number) && counter.count().abs_diff(number) > number * 6 / 100 + 1 {
            return Err(Error::new(format_args!("TESTFAILED Too big error. card:{number} estimate:{}", counter.count())));
        }
    }
    context.reply.ok();
    Ok(())
}

fn pfdebug(context: &mut Context<'_>) -> Done {
    let Some(text) = text(context, 2)? else { return Err(Error::new("The specified key does not exist")) };
    let mut counter = Counter::unpack(&text.bytes())?;
    match &*context.subcommand() {
        "getreg" => {
            context.reply.array(REGISTERS);
            counter.registers.iter().for_each(|value| context.reply.integer(i64::from(*value)));
        }
        "encoding" => context.reply.simple(if counter.dense { "dense" } else { "sparse" }),
        "todense" => {
            let changes = !counter.dense;
            if changes {
                counter.dense = true;
                put(context, 2, counter.pack(0));
            }
            context.reply.integer(changes.into());
        }
        other => return Err(Error::new(format_args!("Unknown PFDEBUG subcommand '{other}'"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_the_same_and_counts_are_near() {
        let mut counter = Counter::new();
        for number in 0..100_000u32 {
            let (at, value) = place(&number.to_le_bytes());
            counter.registers[at] = counter.registers[at].max(value);
            if [1, 100, 1000, 99_999].contains(&number) {
                let (count, real) = (counter.count() as f64, f64::from(number + 1));
                assert!((count - real).abs() <= real * 0.04, "{count} instead of {real}");
                for dense in [false, true] {
                    counter.dense = dense;
                    let packed = counter.pack(1 << 20);
                    assert_eq!(packed[4] == 0, dense);
                    assert!(Counter::unpack(&packed).unwrap().registers == counter.registers);
                    assert!(Counter::unpack(&packed[..packed.len() - 1]).is_err());
                }
            }
        }
    }
}
