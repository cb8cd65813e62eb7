//! Strings as rows of bits: where they are set, what they make together, and numbers of any width among them.

use super::{Command, Context, Done, Kind, command, event, range};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Text, Value};

/// Longest string: Redis's own limit.
const MAX: u64 = 512 << 20;

pub const COMMANDS: &[Command] = &[
    command("bitpos", -3, Kind::Read, (1, 1, 1), bitpos),
    command("bitop", -4, Kind::Grow, (2, -1, 1), bitop),
    command("bitfield", -2, Kind::Grow, (1, 1, 1), |context| bitfield(context, false)),
    command("bitfield_ro", -2, Kind::Read, (1, 1, 1), |context| bitfield(context, true)),
];

/// The text of a key. Shared: what it shows stays what it is.
fn text(context: &mut Context<'_>, at: usize) -> Result<Option<Text>, Error> {
    match context.look(at) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Error::WrongType),
    }
}

/// The first place from which on a bit is as asked for; bits are numbered from the highest of each byte.
fn find(bytes: &[u8], places: std::ops::Range<usize>, on: bool) -> Option<usize> {
    let dull = if on { 0 } else { 0xff };
    let mut place = places.start;
    while place < places.end {
        if place.is_multiple_of(8) && place + 8 <= places.end && bytes[place / 8] == dull {
            // Whole bytes at once: long rows are mostly alike.
            place += 8 * bytes[place / 8..places.end / 8].iter().take_while(|byte| **byte == dull).count();
            continue;
        }
        if (bytes[place / 8] & (0x80 >> (place % 8)) != 0) == on {
            return Some(place);
        }
        place += 1;
    }
    None
}

fn bitpos(context: &mut Context<'_>) -> Done {
    let on = match context.integer(2)? {
        0 => false,
        1 => true,
        _ => return Err(Error::new("The bit argument must be 1 or 0.")),
    };
    let bits = match context.args.len() {
        3..=5 => false,
        6 if context.is(5, "BIT") => true,
        6 if context.is(5, "BYTE") => false,
        _ => return Err(Error::Syntax),
    };
    let start = if context.args.len() > 3 { context.integer(3)? } else { 0 };
    let stop = if context.args.len() > 4 { Some(context.integer(4)?) } else { None };
    let Some(text) = text(context, 1)? else {
        context.reply.integer(if on { -1 } else { 0 });
        return Ok(());
    };
    let bytes = text.bytes();
    let places = if bits {
        range(start, stop.unwrap_or(-1), bytes.len() * 8)
    } else {
        let bytes = range(start, stop.unwrap_or(-1), bytes.len());
        bytes.start * 8..bytes.end * 8
    };
    let none = places.is_empty();
    let end = places.end;
    match find(&bytes, places, on) {
        Some(place) => context.reply.count(place),
        // Behind the end of a string are zeros, unless it was said where to end.
        None if !on && stop.is_none() && !none => context.reply.count(end),
        None => context.reply.integer(-1),
    }
    Ok(())
}

fn bitop(context: &mut Context<'_>) -> Done {
    let what = ["AND", "OR", "XOR", "NOT"].into_iter().find(|word| context.is(1, word)).ok_or(Error::Syntax)?;
    if what == "NOT" && context.args.len() != 4 {
        return Err(Error::new("BITOP NOT must be called with a single source key."));
    }
    let mut sources = Vec::with_capacity(context.args.len() - 3);
    for at in 3..context.args.len() {
        sources.push(text(context, at)?);
    }
    let longest = sources.iter().flatten().map(Text::len).max().unwrap_or(0);
    let mut sources = sources.into_iter();
    let mut result = sources.next().flatten().map(|text| text.bytes().into_owned()).unwrap_or_default();
    result.resize(longest, 0);
    if what == "NOT" {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for source in sources {
        let bytes = source.as_ref().map(Text::bytes).unwrap_or_default();
        let (head, tail) = result.split_at_mut(bytes.len());
        match what {
            "AND" => {
                head.iter_mut().zip(bytes.iter()).for_each(|(into, from)| *into &= from);
                tail.fill(0);
            }
            "OR" => head.iter_mut().zip(bytes.iter()).for_each(|(into, from)| *into |= from),
            _ => head.iter_mut().zip(bytes.iter()).for_each(|(into, from)| *into ^= from),
        }
    }
    let (db, key) = (context.db(), context.arg(2));
    if longest > 0 {
        context.store.set(db, key, Value::Text(Text::from_bits(result)), Expiry::Never);
        context.notify(event::STRING, "set", key);
    } else if context.store.remove(db, key).is_some() {
        context.notify(event::GENERIC, "del", key);
    }
    context.reply.count(longest);
    Ok(())
}

/// What becomes of a number that does not fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// A number among the bits.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    width: u32,
    place: u64,
}

#[derive(Clone, Copy)]
enum Step {
    Get,
    Set(i64),
    Add(i64),
}

impl Field {
    fn least(self) -> i128 {
        if self.signed { -(1 << (self.width - 1)) } else { 0 }
    }

    fn most(self) -> i128 {
        (1 << (self.width - u32::from(self.signed))) - 1
    }

    /// The number with these bits.
    fn number(self, bits: u64) -> i64 {
        if self.signed { ((bits << (64 - self.width)) as i64) >> (64 - self.width) } else { bits as i64 }
    }

    fn read(self, bytes: &[u8]) -> i64 {
        let bits = (self.place..self.place + u64::from(self.width)).fold(0u64, |bits, place| {
            let byte = usize::try_from(place / 8).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
            bits << 1 | u64::from(byte >> (7 - place % 8) & 1)
        });
        self.number(bits)
    }

    fn write(self, bytes: &mut [u8], number: i64) {
        for step in 0..self.width {
            let place = self.place + u64::from(step);
            let (at, mask) = ((place / 8) as usize, 0x80u8 >> (place % 8));
            if number >> (self.width - 1 - step) & 1 != 0 { bytes[at] |= mask } else { bytes[at] &= !mask }
        }
    }

    /// The number as it can be stored. `None`: it is not to be.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i64> {
        if (self.least()..=self.most()).contains(&number) {
            return Some(number as i64);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(number.clamp(self.least(), self.most()) as i64),
            Overflow::Wrap => Some(self.number(number as u64 & (u64::MAX >> (64 - self.width)))),
        }
    }
}

fn field(context: &Context<'_>, at: usize) -> Result<Field, Error> {
    let wrong = || Error::new("Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.");
    let (kind, width) = context.arg(at).split_first().ok_or_else(wrong)?;
    let signed = match kind {
        b'i' => true,
        b'u' => false,
        _ => return Err(wrong()),
    };
    let width = number::integer(width).and_then(|width| u32::try_from(width).ok());
    let width = width.filter(|width| (1..=if signed { 64 } else { 63 }).contains(width)).ok_or_else(wrong)?;
    let outside = || Error::new("bit offset is not an integer or out of range");
    let place = context.arg(at + 1);
    let (place, unit) = place.strip_prefix(b"#").map_or((place, 1), |rest| (rest, u64::from(width)));
    let place = number::integer(place).and_then(|place| u64::try_from(place).ok()).and_then(|place| place.checked_mul(unit));
    let place = place.filter(|place| place / 8 < MAX).ok_or_else(outside)?;
    Ok(Field { signed, width, place })
}

/// Whether these steps make a string another one.
fn changes(text: Option<&Text>, steps: &[(Field, Step, Overflow)], end: u64) -> bool {
    let Some(text) = text.filter(|text| text.len() as u64 >= end) else { return true };
    let bytes = text.bytes();
    // Up to the first change it is what it was.
    steps.iter().any(|(field, step, overflow)| {
        let old = field.read(&bytes);
        let new = match step {
            Step::Get => None,
            Step::Set(number) => field.fit(i128::from(*number), *overflow),
            Step::Add(by) => field.fit(i128::from(old) + i128::from(*by), *overflow),
        };
        new.is_some_and(|new| new != old)
    })
}

fn bitfield(context: &mut Context<'_>, only_read: bool) -> Done {
    let (mut steps, mut overflow, mut end) = (Vec::new(), Overflow::Wrap, 0);
    let mut at = 2;
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "OVERFLOW") && left >= 1 {
            overflow = match () {
                () if context.is(at + 1, "WRAP") => Overflow::Wrap,
                () if context.is(at + 1, "SAT") => Overflow::Saturate,
                () if context.is(at + 1, "FAIL") => Overflow::Fail,
                () => return Err(Error::new("Invalid OVERFLOW type specified")),
            };
            at += 2;
            continue;
        }
        let get = context.is(at, "GET") && left >= 2;
        let set = context.is(at, "SET") && left >= 3;
        if !(get || set || context.is(at, "INCRBY") && left >= 3) {
            return Err(Error::Syntax);
        }
        let field = field(context, at + 1)?;
        let step = match get {
            true => Step::Get,
            false if set => Step::Set(context.integer(at + 3)?),
            false => Step::Add(context.integer(at + 3)?),
        };
        if !get {
            end = end.max((field.place + u64::from(field.width)).div_ceil(8));
        }
        steps.push((field, step, overflow));
        at += if get { 3 } else { 4 };
    }
    let text = text(context, 1)?;
    let writes = end > 0;
    if only_read && writes {
        return Err(Error::new("BITFIELD_RO only supports the GET subcommand"));
    }
    context.reply.array(steps.len());
    if !writes {
        let bytes = text.as_ref().map(Text::bytes).unwrap_or_default();
        steps.iter().for_each(|(field, ..)| context.reply.integer(field.read(&bytes)));
        return Ok(());
    }
    if !changes(text.as_ref(), &steps, end) {
        let bytes = text.as_ref().map(Text::bytes).unwrap_or_default();
        for (field, step, overflow) in steps {
            let old = field.read(&bytes);
            match step {
                Step::Set(number) if field.fit(i128::from(number), overflow).is_none() => context.reply.null(),
                Step::Add(by) if field.fit(i128::from(old) + i128::from(by), overflow).is_none() => context.reply.null(),
                _ => context.reply.integer(old),
            }
        }
        return Ok(());
    }
    drop(text);
    let (db, key) = (context.db(), context.arg(1));
    let Value::Text(text) = context.store.edit_or(db, key, || Value::Text(Text::new(b""))) else { return Err(Error::WrongType) };
    let bytes = text.bytes_mut();
    if (bytes.len() as u64) < end {
        bytes.resize(end as usize, 0);
    }
    for (field, step, overflow) in steps {
        let old = field.read(bytes);
        let (new, shown) = match step {
            Step::Get => (None, Some(old)),
            Step::Set(number) => {
                let new = field.fit(i128::from(number), overflow);
                (new, new.map(|_| old))
            }
            Step::Add(by) => {
                let new = field.fit(i128::from(old) + i128::from(by), overflow);
                (new, new)
            }
        };
        if let Some(new) = new {
            field.write(bytes, new);
        }
        match shown {
            Some(shown) => context.reply.integer(shown),
            None => context.reply.null(),
        }
    }
    context.notify(event::STRING, "setbit", key);
    Ok(())
}
