//! Durations, rates and times as people write them.
//!
//! Invariant: arithmetic is checked; a text that does not fit its type is an error, never another number.
//! Called by: `json::read`, `json::request`, `json::answer` and the query parameters.

use quorate_types::{Millis, WallTime};

const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads `"24h"`, `"1h30m"`, `"250ms"`, or a bare number of milliseconds.
///
/// # Errors
/// Says what a duration looks like.
pub fn duration(text: &str) -> Result<Millis, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Millis).map_err(|_| too_long(text));
    }
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let factor = UNITS.iter().find(|(name, _)| *name == &rest[digits..digits + unit]);
        let (Some((_, factor)), false) = (factor, digits == 0) else {
            return Err(no_duration(text));
        };
        let number: u64 = rest[..digits].parse().map_err(|_| too_long(text))?;
        total = number
            .checked_mul(*factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| too_long(text))?;
        rest = &rest[digits + unit..];
    }
    if text.is_empty() { Err(no_duration(text)) } else { Ok(Millis(total)) }
}

fn no_duration(text: &str) -> String {
    format!("\"{text}\" is no duration: write 250ms, 90s, 1h30m, 24h, 7d, or a whole number of milliseconds")
}

fn too_long(text: &str) -> String {
    format!("the duration \"{text}\" is longer than 64 bits of milliseconds")
}

/// Writes a duration in its largest whole units: `1h30m`.
#[must_use]
pub fn duration_text(duration: Millis) -> String {
    let (mut rest, mut out) = (duration.0, String::new());
    for (name, factor) in UNITS.iter().rev().skip(1) {
        if rest >= *factor {
            out += &format!("{}{name}", rest / factor);
            rest %= factor;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Reads `"100/s"`, `"5/10s"`, `"1000/h"`: units per period.
///
/// # Errors
/// Says what a rate looks like.
pub fn rate(text: &str) -> Result<(u64, Millis), String> {
    let wrong = || format!("\"{text}\" is no rate: write 100/s, 5/10s, 60/m, 1000/h or 10000/d");
    let (count, period) = text.split_once('/').ok_or_else(wrong)?;
    let count = count.trim().parse().map_err(|_| wrong())?;
    let period = period.trim();
    if period.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let period = if period.as_bytes()[0].is_ascii_digit() { period.into() } else { format!("1{period}") };
    Ok((count, duration(&period).map_err(|_| wrong())?))
}

/// Reads an RFC 3339 time, such as `2026-11-22T03:20:12.250Z` or with an offset, to the millisecond.
///
/// # Errors
/// Says what a time looks like, or that it lies before 1970.
pub fn time(text: &str) -> Result<WallTime, String> {
    let wrong =
        || format!("\"{text}\" is no RFC 3339 time: write 2026-11-22T03:20:12Z, or milliseconds since 1970");
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        let digits = bytes.get(from..from + len)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let at = |place: usize, wanted: &[u8]| bytes.get(place).is_some_and(|found| wanted.contains(found));
    let parts = (number(0, 4), number(5, 2), number(8, 2), number(11, 2), number(14, 2), number(17, 2));
    let (Some(year), Some(month), Some(day), Some(hour), Some(minute), Some(second)) = parts else {
        return Err(wrong());
    };
    let marks = at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":");
    let days = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let dated = (1..=12).contains(&month) && (1..=days[(month.clamp(1, 12) - 1) as usize]).contains(&day);
    // RFC 3339 §5.6 allows a leap second; it counts as the first of the next minute, as POSIX has it.
    if !marks || !dated || hour > 23 || minute > 59 || second > 60 {
        return Err(wrong());
    }
    let fraction =
        if at(19, b".") { bytes[20..].iter().take_while(|b| b.is_ascii_digit()).count() } else { 0 };
    if at(19, b".") && fraction == 0 {
        return Err(wrong());
    }
    let mut millis = 0;
    for place in 0..3 {
        millis = millis * 10 + if place < fraction { i64::from(bytes[20 + place] - b'0') } else { 0 };
    }
    let zone = if fraction == 0 { 19 } else { 20 + fraction };
    let offset = match &bytes[zone..] {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (Some(hours), Some(minutes)) = (number(zone + 1, 2), number(zone + 4, 2)) else {
                return Err(wrong());
            };
            if hours > 23 || minutes > 59 {
                return Err(wrong());
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return Err(wrong()),
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    u64::try_from(seconds * 1000 + millis).map(WallTime).map_err(|_| format!("\"{text}\" lies before 1970"))
}

/// Writes a wall time as RFC 3339 in UTC with milliseconds; times beyond the year 9999 as plain milliseconds.
#[must_use]
pub fn time_text(time: WallTime) -> String {
    let days = time.0 / 86_400_000;
    let millis = time.0 % 86_400_000;
    if days >= 2_932_897 {
        return time.0.to_string();
    }
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        millis / 3_600_000,
        millis / 60_000 % 60,
        millis / 1000 % 60,
        millis % 1000
    )
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01 of a proleptic Gregorian date. Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_since_1970`]; same source.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("42", 42),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1x",
            "1h 30m",
            "-1s",
            "1.5h",
            "h1",
            "99999999999999999999s",
            "9999999999999999w",
            "1é",
        ] {
            assert_eq!(duration(text).is_err(), text != "1", "{text}");
        }
        for millis in [0, 1, 999, 5_400_000, 86_400_000, 123_456_789] {
            assert_eq!(duration(&duration_text(Millis(millis))), Ok(Millis(millis)));
        }
    }

    #[test]
    fn rates_are_units_per_period() {
        assert_eq!(rate("100/s"), Ok((100, Millis(1000))));
        assert_eq!(rate("5/10s"), Ok((5, Millis(10_000))));
        assert_eq!(rate("60/m"), Ok((60, Millis(60_000))));
        assert_eq!(rate("1000/h"), Ok((1000, Millis(3_600_000))));
        assert_eq!(rate("9/d"), Ok((9, Millis(86_400_000))));
        for text in ["", "100", "/s", "s/100", "1/", "1/5", "1/x", "-1/s", "1/s/s"] {
            assert!(rate(text).unwrap_err().contains("is no rate"), "{text}");
        }
    }

    #[test]
    fn times_follow_rfc_3339() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500),
            ("2026-11-22T03:20:12.250999Z", 1_795_317_612_250),
            ("2026-11-22T05:20:12+02:00", 1_795_317_612_000),
            ("2026-11-21t22:50:12-04:30", 1_795_317_612_000),
        ] {
            assert_eq!(time(text), Ok(WallTime(millis)), "{text}");
        }
        for text in [
            "",
            "2026-11-22",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:00:00",
            "2026-11-22T00:00:00.Z",
            "2026-11-22T00:00:00+2:00",
            "1969-12-31T23:59:59Z",
            "é026-11-22T00:00:00Z",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_read_back_as_written() {
        for millis in [0, 1, 951_825_600_500, 1_795_317_612_250, 4_102_444_799_999, 253_402_300_799_999] {
            assert_eq!(time(&time_text(WallTime(millis))), Ok(WallTime(millis)));
        }
        assert_eq!(time_text(WallTime(1_795_317_612_250)), "2026-11-22T03:20:12.250Z");
        assert_eq!(time_text(WallTime(u64::MAX)), u64::MAX.to_string());
    }
}
