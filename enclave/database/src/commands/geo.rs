//! Places on the earth: members of sorted sets whose scores are their positions, as 52 bits in which latitude and longitude alternate.

use std::sync::Arc;

use super::{Command, Context, Done, Kind, command, event, flag};
use crate::error::Error;
use crate::number;
use crate::store::Expiry;
use crate::value::{Blob, SortedSet, Value};

pub const COMMANDS: &[Command] = &[
    command("geoadd", -5, Kind::Grow, (1, 1, 1), geoadd),
    command("geopos", -2, Kind::Read, (1, 1, 1), geopos),
    command("geodist", -4, Kind::Read, (1, 1, 1), geodist),
    command("geohash", -2, Kind::Read, (1, 1, 1), geohash),
    command("geosearch", -7, Kind::Read, (1, 1, 1), |context| search(context, Form::Search)),
    command("geosearchstore", -8, Kind::Grow, (1, 2, 1), |context| search(context, Form::SearchStore)),
    command("georadius", -6, Kind::Grow, (1, 1, 1), |context| search(context, Form::Radius { stores: true })).with(flag::MOVABLE),
    command("georadius_ro", -6, Kind::Read, (1, 1, 1), |context| search(context, Form::Radius { stores: false })),
    command("georadiusbymember", -5, Kind::Grow, (1, 1, 1), |context| search(context, Form::ByMember { stores: true })).with(flag::MOVABLE),
    command("georadiusbymember_ro", -5, Kind::Read, (1, 1, 1), |context| search(context, Form::ByMember { stores: false })),
];

/// Mean radius of the earth in metres, as Redis has it (`geohash_helper.c`).
const EARTH: f64 = 6_372_797.560_856;
/// Limits of the Mercator projection.
const LATITUDES: (f64, f64) = (-85.051_128_78, 85.051_128_78);
const LONGITUDES: (f64, f64) = (-180.0, 180.0);
/// Bits of each coordinate.
const STEPS: u32 = 26;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    longitude: f64,
    latitude: f64,
}

/// Bits of a number, with gaps between them.
fn spread(number: u32) -> u64 {
    (0..32).fold(0, |bits, at| bits | u64::from(number >> at & 1) << (2 * at))
}

fn gather(bits: u64) -> u32 {
    (0..32).fold(0, |number, at| number | ((bits >> (2 * at) & 1) as u32) << at)
}

impl Point {
    fn encode(self, latitudes: (f64, f64)) -> u64 {
        let scale = f64::from(1u32 << STEPS);
        let part = |at: f64, (least, most): (f64, f64)| ((at - least) / (most - least) * scale) as u32;
        spread(part(self.latitude, latitudes)) | spread(part(self.longitude, LONGITUDES)) << 1
    }

    fn decode(bits: u64) -> Point {
        let scale = f64::from(1u32 << STEPS);
        let middle = |cell: u32, (least, most): (f64, f64)| {
            let (low, high) = (least + f64::from(cell) / scale * (most - least), least + (f64::from(cell) + 1.0) / scale * (most - least));
            ((low + high) / 2.0).clamp(least, most)
        };
        Point { longitude: middle(gather(bits >> 1), LONGITUDES), latitude: middle(gather(bits), LATITUDES) }
    }

    /// Metres along the surface (haversine).
    fn distance(self, other: Point) -> f64 {
        let (here, there) = (self.latitude.to_radians(), other.latitude.to_radians());
        let v = ((other.longitude.to_radians() - self.longitude.to_radians()) / 2.0).sin();
        let u = ((there - here) / 2.0).sin();
        2.0 * EARTH * (u * u + here.cos() * there.cos() * v * v).sqrt().asin()
    }
}

fn point(context: &Context<'_>, at: usize) -> Result<Point, Error> {
    let (longitude, latitude) = (context.float(at)?, context.float(at + 1)?);
    if !(LONGITUDES.0..=LONGITUDES.1).contains(&longitude) || !(LATITUDES.0..=LATITUDES.1).contains(&latitude) {
        return Err(Error::new(format_args!("invalid longitude,latitude pair {longitude:.6},{latitude:.6}")));
    }
    Ok(Point { longitude, latitude })
}

/// Metres of a unit.
fn unit(context: &Context<'_>, at: usize) -> Result<f64, Error> {
    [("M", 1.0), ("KM", 1000.0), ("FT", 0.3048), ("MI", 1609.34)]
        .into_iter()
        .find(|(word, _)| context.is(at, word))
        .map(|(_, metres)| metres)
        .ok_or_else(|| Error::new("unsupported unit provided. please use M, KM, FT, MI"))
}

fn sorted_set(context: &mut Context<'_>, at: usize) -> Result<Option<Arc<SortedSet>>, Error> {
    match context.look(at) {
        None => Ok(None),
        Some(Value::SortedSet(set)) => Ok(Some(Arc::clone(set))),
        Some(_) => Err(Error::WrongType),
    }
}

fn place(set: Option<&Arc<SortedSet>>, member: &[u8]) -> Option<Point> {
    set?.score(member).map(|score| Point::decode(score as u64))
}

/// A coordinate: seventeen digits behind the point, without the zeros at the end.
fn coordinate(context: &mut Context<'_>, number: f64) {
    let text = format!("{number:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if context.reply.version >= 3 {
        context.reply.bytes.extend_from_slice(format!(",{text}\r\n").as_bytes());
    } else {
        context.reply.bulk(text.as_bytes());
    }
}

fn show_point(context: &mut Context<'_>, point: Point) {
    context.reply.array(2);
    coordinate(context, point.longitude);
    coordinate(context, point.latitude);
}

fn geoadd(context: &mut Context<'_>) -> Done {
    let mut first = 2;
    while ["NX", "XX", "CH"].iter().any(|option| context.is(first, option)) {
        first += 1;
    }
    if (2..first).any(|at| context.is(at, "NX")) && (2..first).any(|at| context.is(at, "XX")) {
        return Err(Error::Syntax);
    }
    let triples = context.args.get(first..).unwrap_or_default();
    if triples.is_empty() || !triples.len().is_multiple_of(3) {
        return Err(Error::Syntax);
    }
    let mut scores = Vec::with_capacity(triples.len() / 3);
    for at in (first..context.args.len()).step_by(3) {
        scores.push(point(context, at)?.encode(LATITUDES).to_string());
    }
    let mut args: Vec<&[u8]> = vec![b"zadd"];
    args.extend_from_slice(&context.args[1..first]);
    for (score, triple) in scores.iter().zip(triples.chunks_exact(3)) {
        args.extend([score.as_bytes(), triple[2]]);
    }
    let zadd = super::find(b"zadd").ok_or(Error::Syntax)?;
    (zadd.run)(&mut Context {
        store: &mut *context.store,
        session: &mut *context.session,
        shared: &mut *context.shared,
        args: &args,
        reply: &mut *context.reply,
    })
}

fn geopos(context: &mut Context<'_>) -> Done {
    let set = sorted_set(context, 1)?;
    context.reply.array(context.args.len() - 2);
    for member in &context.args[2..] {
        match place(set.as_ref(), member) {
            Some(point) => show_point(context, point),
            None => context.reply.null_array(),
        }
    }
    Ok(())
}

fn geodist(context: &mut Context<'_>) -> Done {
    let unit = match context.args.len() {
        4 => 1.0,
        5 => unit(context, 4)?,
        _ => return Err(Error::Syntax),
    };
    let set = sorted_set(context, 1)?;
    match place(set.as_ref(), context.arg(2)).zip(place(set.as_ref(), context.arg(3))) {
        Some((a, b)) => context.reply.bulk(format!("{:.4}", a.distance(b) / unit).as_bytes()),
        None => context.reply.null(),
    }
    Ok(())
}

fn geohash(context: &mut Context<'_>) -> Done {
    const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
    let set = sorted_set(context, 1)?;
    context.reply.array(context.args.len() - 2);
    for member in &context.args[2..] {
        let text = place(set.as_ref(), member).map(|point| {
            // The public form has another range of latitudes. It has room for 55 bits, of which there are 52: the last letter is 0.
            let bits = point.encode((-90.0, 90.0));
            (1..=11)
                .map(|letter| if letter == 11 { LETTERS[0] } else { LETTERS[(bits >> (52 - letter * 5) & 31) as usize] })
                .collect::<Vec<u8>>()
        });
        context.reply.bulk_or_null(text.as_deref());
    }
    Ok(())
}

// ---- searching --------------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Search,
    SearchStore,
    Radius { stores: bool },
    ByMember { stores: bool },
}

/// What is searched, in metres.
#[derive(Clone, Copy)]
enum Shape {
    Circle(f64),
    Box(f64, f64),
}

impl Shape {
    /// How far a point in it is from its middle.
    fn distance(self, middle: Point, point: Point) -> Option<f64> {
        match self {
            Shape::Circle(radius) => Some(middle.distance(point)).filter(|distance| *distance <= radius),
            Shape::Box(width, height) => {
                let up = EARTH * (point.latitude.to_radians() - middle.latitude.to_radians()).abs();
                let across = point.distance(Point { longitude: middle.longitude, latitude: point.latitude });
                (up <= height / 2.0 && across <= width / 2.0).then(|| middle.distance(point))
            }
        }
    }

    /// Longitudes and latitudes outside of which nothing of it is.
    fn bounds(self, middle: Point) -> ((f64, f64), (f64, f64)) {
        let (across, up) = match self {
            Shape::Circle(radius) => (radius, radius),
            Shape::Box(width, height) => (width / 2.0, height / 2.0),
        };
        // A little more, for what rounding loses.
        let up = (up / EARTH).to_degrees() * 1.000_001 + 1e-6;
        let (south, north) = (middle.latitude - up, middle.latitude + up);
        let narrow = south.abs().max(north.abs()).min(90.0).to_radians().cos();
        // What spans a quarter of its circle of latitude is no longer as wide as it is long.
        let across = across / (2.0 * EARTH * narrow.max(1e-9));
        let across = if across < 0.7 { (2.0 * across.asin()).to_degrees() * 1.000_001 + 1e-6 } else { 360.0 };
        let (west, east) = (middle.longitude - across, middle.longitude + across);
        let east_west = if west < LONGITUDES.0 || east > LONGITUDES.1 { LONGITUDES } else { (west, east) };
        (east_west, (south, north))
    }
}

/// Ranges of scores that cover some longitudes and latitudes: cells are halved as long as they are not all inside and not too many.
fn cover(longitudes: (f64, f64), latitudes: (f64, f64)) -> Vec<(u64, u64)> {
    let mut cells = vec![(0u64, LONGITUDES, LATITUDES)];
    let mut step = 0;
    while step < 2 * STEPS && cells.len() <= 32 {
        let mut halves = Vec::with_capacity(cells.len() * 2);
        for (prefix, lon, lat) in cells {
            // The highest bit is of the longitude.
            let split = |(low, high): (f64, f64)| ((low, (low + high) / 2.0), ((low + high) / 2.0, high));
            let (first, second) = if step % 2 == 0 {
                let (a, b) = split(lon);
                ((a, lat), (b, lat))
            } else {
                let (a, b) = split(lat);
                ((lon, a), (lon, b))
            };
            for (bit, (lon, lat)) in [(0, first), (1, second)] {
                if lon.1 >= longitudes.0 && lon.0 <= longitudes.1 && lat.1 >= latitudes.0 && lat.0 <= latitudes.1 {
                    halves.push((prefix << 1 | bit, lon, lat));
                }
            }
        }
        cells = halves;
        step += 1;
    }
    let shift = 2 * STEPS - step;
    let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(cells.len());
    for (prefix, ..) in cells {
        let (start, end) = (prefix << shift, (prefix + 1) << shift);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

struct Hit {
    name: Blob,
    distance: f64,
    score: f64,
}

fn positive(context: &Context<'_>, at: usize, what: &str) -> Result<f64, Error> {
    let wrong = || Error::new(format_args!("need numeric {what}"));
    number::float(context.arg(at)).ok_or_else(wrong)
}

fn radius(context: &Context<'_>, at: usize) -> Result<f64, Error> {
    let radius = positive(context, at, "radius")?;
    if radius < 0.0 { Err(Error::new("radius cannot be negative")) } else { Ok(radius * unit(context, at + 1)?) }
}

fn search(context: &mut Context<'_>, form: Form) -> Done {
    let source = if form == Form::SearchStore { 2 } else { 1 };
    let set = sorted_set(context, source)?;
    let lost = || Error::new("could not decode requested zset member");
    let of_member = |context: &Context<'_>, at: usize| place(set.as_ref(), context.arg(at)).ok_or_else(lost);
    let (mut middle, mut shape, mut scale, mut at) = (None, None, 1.0, source + 1);
    match form {
        Form::Radius { .. } => {
            middle = Some(point(context, 2)?);
            (shape, scale, at) = (Some(Shape::Circle(radius(context, 4)?)), unit(context, 5)?, 6);
        }
        Form::ByMember { .. } => {
            // A key that is not there has no members; the rest is looked at all the same.
            middle = if set.is_some() { Some(of_member(context, 2)?) } else { Some(Point { longitude: 0.0, latitude: 0.0 }) };
            (shape, scale, at) = (Some(Shape::Circle(radius(context, 3)?)), unit(context, 4)?, 5);
        }
        Form::Search | Form::SearchStore => {}
    }
    let searches = matches!(form, Form::Search | Form::SearchStore);
    let stores = matches!(form, Form::Radius { stores: true } | Form::ByMember { stores: true });
    let (mut with_distance, mut with_hash, mut with_point) = (false, false, false);
    let (mut descending, mut most, mut any) = (None, 0, false);
    let (mut into, mut by_distance) = (if form == Form::SearchStore { Some(context.arg(1)) } else { None }, false);
    let (mut froms, mut bys) = (0, 0);
    while at < context.args.len() {
        let left = context.args.len() - at - 1;
        if context.is(at, "WITHDIST") {
            with_distance = true;
        } else if context.is(at, "WITHHASH") {
            with_hash = true;
        } else if context.is(at, "WITHCOORD") {
            with_point = true;
        } else if context.is(at, "ANY") {
            any = true;
        } else if context.is(at, "ASC") || context.is(at, "DESC") {
            descending = Some(context.is(at, "DESC"));
        } else if context.is(at, "COUNT") && left >= 1 {
            at += 1;
            most = usize::try_from(context.integer(at)?).ok().filter(|most| *most > 0).ok_or_else(|| Error::new("COUNT must be > 0"))?;
        } else if stores && left >= 1 && (context.is(at, "STORE") || context.is(at, "STOREDIST")) {
            by_distance = context.is(at, "STOREDIST");
            at += 1;
            into = Some(context.arg(at));
        } else if form == Form::SearchStore && context.is(at, "STOREDIST") {
            by_distance = true;
        } else if searches && left >= 1 && froms == 0 && context.is(at, "FROMMEMBER") {
            at += 1;
            froms += 1;
            middle = if set.is_some() { Some(of_member(context, at)?) } else { None };
        } else if searches && left >= 2 && froms == 0 && context.is(at, "FROMLONLAT") {
            middle = Some(point(context, at + 1)?);
            froms += 1;
            at += 2;
        } else if searches && left >= 2 && bys == 0 && context.is(at, "BYRADIUS") {
            (shape, scale) = (Some(Shape::Circle(radius(context, at + 1)?)), unit(context, at + 2)?);
            bys += 1;
            at += 2;
        } else if searches && left >= 3 && bys == 0 && context.is(at, "BYBOX") {
            let (width, height) = (positive(context, at + 1, "width")?, positive(context, at + 2, "height")?);
            if width < 0.0 || height < 0.0 {
                return Err(Error::new("height or width cannot be negative"));
            }
            scale = unit(context, at + 3)?;
            shape = Some(Shape::Box(width * scale, height * scale));
            bys += 1;
            at += 3;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    let name = context.name();
    if into.is_some() && (with_distance || with_hash || with_point) {
        let what = if form == Form::SearchStore { &*name } else { "STORE option in GEORADIUS" };
        return Err(Error::new(format_args!("{what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options")));
    }
    if searches && froms == 0 {
        return Err(Error::new(format_args!("exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}")));
    }
    if searches && bys == 0 {
        return Err(Error::new(format_args!("exactly one of BYRADIUS and BYBOX can be specified for {name}")));
    }
    if any && most == 0 {
        return Err(Error::new("the ANY argument requires COUNT argument"));
    }
    // The nearest are wanted, unless any will do.
    let descending = descending.or(if most > 0 && !any { Some(false) } else { None });
    let mut hits = match set.zip(middle).zip(shape) {
        Some(((set, middle), shape)) => find(&set, middle, shape, if any { most } else { usize::MAX }),
        None => Vec::new(),
    };
    match descending {
        Some(true) => hits.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
        Some(false) => hits.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
        None => {}
    }
    if most > 0 {
        hits.truncate(most);
    }
    if let Some(into) = into {
        return store(context, into, &hits, by_distance.then_some(scale));
    }
    context.reply.array(hits.len());
    let parts = [with_distance, with_hash, with_point].into_iter().filter(|with| *with).count();
    for hit in hits {
        if parts > 0 {
            context.reply.array(parts + 1);
        }
        context.reply.bulk(&hit.name);
        if with_distance {
            context.reply.bulk(format!("{:.4}", hit.distance / scale).as_bytes());
        }
        if with_hash {
            context.reply.integer(hit.score as i64);
        }
        if with_point {
            show_point(context, Point::decode(hit.score as u64));
        }
    }
    Ok(())
}

fn find(set: &SortedSet, middle: Point, shape: Shape, most: usize) -> Vec<Hit> {
    let (longitudes, latitudes) = shape.bounds(middle);
    let mut hits = Vec::new();
    let mut ranges = cover(longitudes, latitudes);
    // Without an order that was asked for, Redis begins with the cell of the middle; clients have come to see it so.
    let here = middle.encode(LATITUDES);
    if most == usize::MAX
        && let Some(at) = ranges.iter().position(|(start, end)| (*start..*end).contains(&here))
    {
        ranges.rotate_left(at);
    }
    for (start, end) in ranges {
        let first = set.partition_point(|member| member.score < start as f64);
        let last = set.partition_point(|member| member.score < end as f64);
        for member in set.members().range(first..last) {
            if hits.len() >= most {
                return hits;
            }
            let point = Point::decode(member.score as u64);
            if let Some(distance) = shape.distance(middle, point) {
                hits.push(Hit { name: member.name.clone(), distance, score: member.score });
            }
        }
    }
    hits
}

fn store(context: &mut Context<'_>, into: &[u8], hits: &[Hit], scale: Option<f64>) -> Done {
    let (db, limits) = (context.db(), context.limits());
    if hits.is_empty() {
        if context.store.remove(db, into).is_some() {
            context.notify(event::GENERIC, "del", into);
        }
    } else {
        let mut set = SortedSet::default();
        for hit in hits {
            set.insert(&hit.name, scale.map_or(hit.score, |scale| hit.distance / scale), &limits);
        }
        let name = if context.is(0, "GEOSEARCHSTORE") { "geosearchstore" } else { "georadiusstore" };
        context.store.set(db, into, Value::SortedSet(Arc::new(set)), Expiry::Never);
        context.notify(event::SORTED_SET, name, into);
    }
    context.reply.count(hits.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Limits;

    #[test]
    fn palermo_is_where_the_documentation_has_it() {
        let palermo = Point { longitude: 13.361389, latitude: 38.115556 };
        assert_eq!(palermo.encode(LATITUDES), 3_479_099_956_230_698);
        let catania = Point::decode(Point { longitude: 15.087269, latitude: 37.502669 }.encode(LATITUDES));
        let palermo = Point::decode(palermo.encode(LATITUDES));
        assert_eq!(format!("{:.17} {:.4}", palermo.longitude, palermo.distance(catania)), "13.36138933897018433 166274.1516");
    }

    fn point() -> impl Strategy<Value = Point> {
        (-180.0..180.0f64, -85.0..85.0f64).prop_map(|(longitude, latitude)| Point { longitude, latitude })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_in_reach_is_found(points in prop::collection::vec(point(), 1..100), middle in point(), reach in 0.0..7.3f64, flat in 0.0..7.3f64, circle: bool) {
            let mut set = SortedSet::default();
            for (at, point) in points.iter().enumerate() {
                set.insert(at.to_string().as_bytes(), point.encode(LATITUDES) as f64, &Limits::default());
            }
            let (reach, flat) = (10f64.powf(reach), 10f64.powf(flat));
            let shape = if circle { Shape::Circle(reach) } else { Shape::Box(reach, flat) };
            let mut found: Vec<Blob> = find(&set, middle, shape, usize::MAX).into_iter().map(|hit| hit.name).collect();
            let all = set.members().iter().filter(|member| shape.distance(middle, Point::decode(member.score as u64)).is_some());
            let mut all: Vec<Blob> = all.map(|member| member.name.clone()).collect();
            found.sort();
            all.sort();
            prop_assert_eq!(found, all);
        }
    }
}
