//! LCS: the longest common subsequence of two strings.

use super::{Command, Context, Done, Kind, command};
use crate::error::Error;
use crate::value::Value;

pub const COMMANDS: &[Command] = &[command("lcs", -3, Kind::Read, (1, 2, 1), lcs)];

/// Most cells of the table: a client must not make the server allocate without bound.
const CELLS: usize = 256 << 20;

/// Two ranges that are equal: in the first string and in the second.
type Match = (std::ops::RangeInclusive<usize>, std::ops::RangeInclusive<usize>);

fn text(context: &mut Context<'_>, at: usize) -> Result<Vec<u8>, Error> {
    match context.read(at) {
        None => Ok(Vec::new()),
        Some(Value::Text(text)) => Ok(text.bytes().into_owned()),
        Some(_) => Err(Error::new("The specified keys must contain string values")),
    }
}

fn lcs(context: &mut Context<'_>) -> Done {
    let (a, b) = (text(context, 1)?, text(context, 2)?);
    let (mut length_only, mut ranges, mut least, mut with_length) = (false, false, 0, false);
    let mut at = 3;
    while at < context.args.len() {
        if context.is(at, "LEN") {
            length_only = true;
        } else if context.is(at, "IDX") {
            ranges = true;
        } else if context.is(at, "WITHMATCHLEN") {
            with_length = true;
        } else if context.is(at, "MINMATCHLEN") && at + 1 < context.args.len() {
            at += 1;
            least = usize::try_from(context.integer(at)?).unwrap_or(0);
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if length_only && ranges {
        return Err(Error::new("If you want both the length and indexes, please just use IDX."));
    }
    let width = b.len() + 1;
    let cells = width.checked_mul(a.len() + 1).filter(|cells| *cells <= CELLS);
    let cells = cells.ok_or_else(|| Error::new("Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"))?;
    // Row i, column j: of the first i bytes and the first j.
    let mut table = vec![0u32; cells];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            table[i * width + j] = if a[i - 1] == b[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let length = table[cells - 1] as usize;
    if length_only {
        context.reply.count(length);
        return Ok(());
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::with_capacity(length);
    // From the end, as Redis lists them.
    let mut matches: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            common.push(a[i - 1]);
            match matches.last_mut() {
                Some((x, y)) if *x.start() == i && *y.start() == j => (*x, *y) = (i - 1..=*x.end(), j - 1..=*y.end()),
                _ => matches.push((i - 1..=i - 1, j - 1..=j - 1)),
            }
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !ranges {
        common.reverse();
        context.reply.bulk(&common);
        return Ok(());
    }
    matches.retain(|(x, _)| x.end() - x.start() + 1 >= least.max(1));
    let reply = &mut *context.reply;
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for (x, y) in matches {
        reply.array(if with_length { 3 } else { 2 });
        for range in [&x, &y] {
            reply.array(2);
            reply.count(*range.start());
            reply.count(*range.end());
        }
        if with_length {
            reply.count(x.end() - x.start() + 1);
        }
    }
    reply.bulk(b"len");
    reply.count(length);
    Ok(())
}
