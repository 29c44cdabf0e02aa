//! Places on Earth: where they lie in a sorted set, how far apart they are, and which scores an area can have.
//!
//! A place is kept as 52 bits, 26 of its latitude and 26 of its longitude in turn, which a score holds exactly. Neighbouring bits are neighbouring
//! places, so an area is few ranges of scores.
//!
//! Invariant: the same words give the same bits on every machine: roots, sines and their kin come from one portable library, not from the system's.
//! Called by: `calls::geo`.
//! Source: Niemeyer, geohash.org, 2008; Morton, "A computer oriented geodetic data base", IBM, 1966; Sinnott, "Virtues of the haversine",
//! Sky and Telescope 68(2), 1984. The ranges and the radius are those that Redis has.

use crate::Score;
use std::f64::consts::PI;

/// Bits of each coordinate.
const BITS: u32 = 26;
const LATITUDE_MAX: f64 = 85.051_128_78;
const LONGITUDE_MAX: f64 = 180.0;
const EARTH_RADIUS_METERS: f64 = 6_372_797.560_856;
/// Half of the way around the projection's square.
const MERCATOR_MAX: f64 = 20_037_726.37;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    longitude: f64,
    latitude: f64,
}

/// A unit of distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Metres.
    Meters,
    /// Kilometres.
    Kilometers,
    /// Feet.
    Feet,
    /// Miles.
    Miles,
}

/// What is searched: all that is near a place.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    center: Point,
    form: Form,
}

/// In metres.
#[derive(Clone, Copy, Debug)]
enum Form {
    Circle(f64),
    /// Width and height.
    Box(f64, f64),
}

impl Unit {
    /// The unit of this name, in any case.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
        match () {
            () if is(b"m") => Some(Self::Meters),
            () if is(b"km") => Some(Self::Kilometers),
            () if is(b"ft") => Some(Self::Feet),
            () if is(b"mi") => Some(Self::Miles),
            () => None,
        }
    }

    fn meters(self) -> f64 {
        match self {
            Self::Meters => 1.0,
            Self::Kilometers => 1000.0,
            Self::Feet => 0.3048,
            Self::Miles => 1609.34,
        }
    }

    /// A distance in metres in this unit.
    #[must_use]
    pub fn of(self, meters: Score) -> Score {
        Score::new(meters.get() / self.meters()).unwrap_or_default()
    }
}

impl Point {
    /// A place; nothing outside of what can be kept.
    #[must_use]
    pub fn new(longitude: Score, latitude: Score) -> Option<Self> {
        let (longitude, latitude) = (longitude.get(), latitude.get());
        let inside = longitude.abs() <= LONGITUDE_MAX && latitude.abs() <= LATITUDE_MAX;
        inside.then_some(Self { longitude, latitude })
    }

    /// The score under which it is kept.
    #[must_use]
    pub fn score(self) -> Score {
        // 52 bits: a double holds them exactly.
        Score::from_i64(self.bits(BITS, LATITUDE_MAX) as i64)
    }

    /// The place of a score: the middle of all that have it. A score that no place has is taken as its 64 bits, as Redis does, and then as the
    /// nearest place that can be.
    #[must_use]
    pub fn of_score(score: Score) -> Self {
        let value = score.get();
        let bits = if value < 0.0 {
            value as i64 as u64
        } else if value < 18_446_744_073_709_551_616.0 {
            value as u64
        } else {
            0
        };
        let (south, north, west, east) = cell(bits, BITS);
        let clamped = |value: f64, max: f64| value.clamp(-max, max);
        Self {
            longitude: clamped((west + east) / 2.0, LONGITUDE_MAX),
            latitude: clamped((south + north) / 2.0, LATITUDE_MAX),
        }
    }

    /// Degrees east.
    #[must_use]
    pub fn longitude(self) -> Score {
        Score::new(self.longitude).unwrap_or_default()
    }

    /// Degrees north.
    #[must_use]
    pub fn latitude(self) -> Score {
        Score::new(self.latitude).unwrap_or_default()
    }

    /// The way to another place, in metres, over a sphere.
    #[must_use]
    pub fn distance(self, other: Self) -> Score {
        Score::new(self.meters(other)).unwrap_or_default()
    }

    /// Its geohash of eleven letters.
    #[must_use]
    pub fn geohash(self) -> String {
        const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = self.bits(BITS, 90.0);
        // 52 bits are ten letters and two bits, of which no letter is made.
        let letters = (1..=10).map(|at| LETTERS[(bits >> (52 - at * 5)) as usize & 31]);
        letters.chain([LETTERS[0]]).map(char::from).collect()
    }

    /// So many bits of each coordinate, those of the longitude one place higher.
    fn bits(self, bits: u32, latitude_max: f64) -> u64 {
        let part = |value: f64, max: f64| {
            let cells = (1_u64 << bits) as f64;
            // The last cell holds its upper end too.
            ((((value + max) / (2.0 * max)) * cells) as u64).min((1 << bits) - 1)
        };
        interleave(part(self.latitude, latitude_max), part(self.longitude, LONGITUDE_MAX))
    }

    fn meters(self, other: Self) -> f64 {
        let radians = |degrees: f64| degrees * (PI / 180.0);
        let v = libm::sin((radians(other.longitude) - radians(self.longitude)) / 2.0);
        if v == 0.0 {
            return north_south(self.latitude, other.latitude);
        }
        let (from, to) = (radians(self.latitude), radians(other.latitude));
        let u = libm::sin((to - from) / 2.0);
        let a = u * u + libm::cos(from) * libm::cos(to) * v * v;
        2.0 * EARTH_RADIUS_METERS * libm::asin(libm::sqrt(a))
    }
}

impl Area {
    /// All within a radius, in `unit`.
    #[must_use]
    pub fn circle(center: Point, radius: Score, unit: Unit) -> Self {
        Self { center, form: Form::Circle(radius.get() * unit.meters()) }
    }

    /// All within a box, in `unit`.
    #[must_use]
    pub fn rectangle(center: Point, width: Score, height: Score, unit: Unit) -> Self {
        Self { center, form: Form::Box(width.get() * unit.meters(), height.get() * unit.meters()) }
    }

    /// How far a place inside is from the middle, in metres; nothing for one outside.
    #[must_use]
    pub fn distance(&self, point: Point) -> Option<Score> {
        let distance = self.center.meters(point);
        let inside = match self.form {
            Form::Circle(radius) => distance <= radius,
            Form::Box(width, height) => {
                let across = Point { longitude: self.center.longitude, latitude: point.latitude };
                north_south(self.center.latitude, point.latitude) <= height / 2.0
                    && point.meters(across) <= width / 2.0
            }
        };
        inside.then(|| Score::new(distance).unwrap_or_default())
    }

    /// Ranges of scores, each from the first to before the second, in which all places of the area are: the cell of its middle, then those
    /// around it, no range twice.
    #[must_use]
    pub fn ranges(&self) -> Vec<(Score, Score)> {
        let (width, height) = match self.form {
            Form::Circle(radius) => (radius * 2.0, radius * 2.0),
            Form::Box(width, height) => (width, height),
        };
        let (south, north, west, east) = self.bounds(width, height);
        let radius = match self.form {
            Form::Circle(radius) => radius,
            Form::Box(width, height) => {
                libm::sqrt(width / 2.0 * (width / 2.0) + height / 2.0 * (height / 2.0))
            }
        };
        let mut steps = steps_for(radius, self.center.latitude);
        let mut middle = self.center.bits(steps, LATITUDE_MAX);
        let reaches = |middle: u64, steps: u32| {
            cell(moved(middle, steps, 1, 0), steps).1 >= north
                && cell(moved(middle, steps, -1, 0), steps).0 <= south
                && cell(moved(middle, steps, 0, 1), steps).3 >= east
                && cell(moved(middle, steps, 0, -1), steps).2 <= west
        };
        if steps > 1 && !reaches(middle, steps) {
            steps -= 1;
            middle = self.center.bits(steps, LATITUDE_MAX);
        }
        let own = cell(middle, steps);
        // What the middle's own cell reaches beyond needs none of that side; with one step, cells go around the Earth.
        let needed = |up: i64, right: i64| {
            steps < 2
                || !(up < 0 && own.0 < south
                    || up > 0 && own.1 > north
                    || right < 0 && own.2 < west
                    || right > 0 && own.3 > east)
        };
        const AROUND: [(i64, i64); 9] =
            [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)];
        let mut seen = Vec::with_capacity(9);
        for (up, right) in AROUND {
            let bits = moved(middle, steps, up, right);
            if needed(up, right) && !seen.contains(&bits) {
                seen.push(bits);
            }
        }
        let shift = 2 * (BITS - steps);
        let score = |bits: u64| Score::from_i64((bits << shift) as i64);
        seen.into_iter().map(|bits| (score(bits), score(bits + 1))).collect()
    }

    /// South, north, west and east of the area, in degrees.
    fn bounds(&self, width: f64, height: f64) -> (f64, f64, f64, f64) {
        let degrees = |radians: f64| radians / (PI / 180.0);
        let Point { longitude, latitude } = self.center;
        let up = degrees(height / 2.0 / EARTH_RADIUS_METERS);
        // Meridians are closest at the end that is nearer to a pole.
        let narrow = if latitude < 0.0 { latitude - up } else { latitude + up };
        let cosine = libm::cos(narrow * (PI / 180.0));
        // What reaches over a pole has all meridians in it.
        let across =
            if narrow.abs() < 90.0 { degrees(width / 2.0 / EARTH_RADIUS_METERS / cosine) } else { 360.0 };
        (latitude - up, latitude + up, longitude - across, longitude + across)
    }
}

/// The way along a meridian.
fn north_south(from: f64, to: f64) -> f64 {
    let radians = |degrees: f64| degrees * (PI / 180.0);
    EARTH_RADIUS_METERS * (radians(to) - radians(from)).abs()
}

/// How many bits of each coordinate the cells around a place may have that nine of them cover a radius.
fn steps_for(radius: f64, latitude: f64) -> u32 {
    if radius == 0.0 {
        return BITS;
    }
    let (mut steps, mut reach) = (1_i64, radius);
    while reach < MERCATOR_MAX {
        reach *= 2.0;
        steps += 1;
    }
    // One for the places beyond the cell's edge, one for the nine; cells are narrow towards the poles.
    steps -= 2;
    if latitude.abs() > 66.0 {
        steps -= 1;
    }
    if latitude.abs() > 80.0 {
        steps -= 1;
    }
    steps.clamp(1, i64::from(BITS)) as u32
}

/// South, north, west and east of a cell.
fn cell(bits: u64, steps: u32) -> (f64, f64, f64, f64) {
    let (y, x) = (deinterleave(bits), deinterleave(bits >> 1));
    let cells = (1_u64 << steps) as f64;
    let edge = |at: u64, max: f64| -max + (at as f64 / cells) * (2.0 * max);
    (edge(y, LATITUDE_MAX), edge(y + 1, LATITUDE_MAX), edge(x, LONGITUDE_MAX), edge(x + 1, LONGITUDE_MAX))
}

/// The cell beside one, around the Earth.
fn moved(bits: u64, steps: u32, up: i64, right: i64) -> u64 {
    let mask = (1_u64 << steps) - 1;
    let step = |at: u64, by: i64| at.wrapping_add_signed(by) & mask;
    interleave(step(deinterleave(bits), up), step(deinterleave(bits >> 1), right))
}

/// Bits of the first at even places, of the second at odd ones.
fn interleave(even: u64, odd: u64) -> u64 {
    spread(even) | spread(odd) << 1
}

fn spread(bits: u64) -> u64 {
    let mut spread = bits & 0xffff_ffff;
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555_u64),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread
}

/// The bits at even places.
fn deinterleave(bits: u64) -> u64 {
    let mut gathered = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff_u64),
    ] {
        gathered = (gathered | gathered >> shift) & mask;
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(longitude: &str, latitude: &str) -> Point {
        let score = |text: &str| Score::parse(text.as_bytes()).unwrap();
        Point::new(score(longitude), score(latitude)).unwrap()
    }

    #[test]
    fn places_are_kept_as_redis_keeps_them() {
        let (palermo, catania) = (point("13.361389", "38.115556"), point("15.087269", "37.502669"));
        assert_eq!(catania.score().to_string(), "3479447370796909");
        let back = Point::of_score(palermo.score());
        assert_eq!(back.longitude().to_string(), "13.361389338970184");
        assert_eq!(back.latitude().to_string(), "38.1155563954963");
        assert_eq!(
            (back.geohash(), Point::of_score(catania.score()).geohash()),
            ("sqc8b49rny0".into(), "sqdtr74hyu0".into())
        );
        let meters = back.distance(Point::of_score(catania.score()));
        assert_eq!(meters.fixed(4), "166274.1516");
        assert_eq!(Unit::Miles.of(meters).fixed(4), "103.3182");
    }

    #[test]
    fn every_place_of_an_area_is_in_one_of_its_ranges() {
        let mut state = 7_u64;
        let mut random = |below: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64 * below
        };
        let (mut inside, mut outside) = (0, 0);
        for _ in 0..400 {
            let center = Point { longitude: random(360.0) - 180.0, latitude: random(160.0) - 80.0 };
            let size = libm::exp(random(14.0));
            let area = Area {
                center,
                form: if (size as u64).is_multiple_of(2) {
                    Form::Circle(size)
                } else {
                    Form::Box(size, size * 1.5)
                },
            };
            let ranges = area.ranges();
            for _ in 0..50 {
                let near = size / 100_000.0;
                let found = Point {
                    longitude: (center.longitude + random(4.0 * near) - 2.0 * near).clamp(-180.0, 180.0),
                    latitude: (center.latitude + random(2.0 * near) - near).clamp(-85.0, 85.0),
                };
                let found = Point::of_score(found.score());
                if area.distance(found).is_none() {
                    outside += 1;
                    continue;
                }
                inside += 1;
                let at = found.score();
                assert_eq!(
                    ranges.iter().filter(|(from, to)| (from..to).contains(&&at)).count(),
                    1,
                    "{found:?} in {area:?}"
                );
            }
        }
        assert!(inside > 1000 && outside > 1000, "{inside} {outside}");
    }

    #[test]
    fn what_cannot_be_kept_is_no_place() {
        let score = |text: &str| Score::parse(text.as_bytes()).unwrap();
        assert!(Point::new(score("180.1"), score("0")).is_none());
        assert!(Point::new(score("0"), score("85.06")).is_none());
        assert!(Point::new(score("-180"), score("-85.05112878")).is_some());
        for odd in ["-1", "1e30", "-inf", "inf", "9e15"] {
            let place = Point::of_score(score(odd));
            assert!(
                Point::new(place.longitude(), place.latitude()).is_some(),
                "{odd} is taken as a place that can be"
            );
        }
        let far = point("180", "85.05112878");
        assert!(Point::of_score(far.score()).distance(far).get() < 1.0);
    }
}
