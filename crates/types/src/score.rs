//! A double as Redis has them: the score of a member, the answer of a float command. With `geo`, the one place below the gateways where floats are allowed.
//!
//! Invariant: never NaN, so that scores have a total order and a state digests alike everywhere. −0 is kept as 0.
//! Invariant: only arithmetic and the standard library's exact reading and shortest printing happen here; each gives the same bits on every
//! processor (IEEE 754 §5). Logarithms and their kin, which do not, are those of `libm`, which is the same code everywhere.

use crate::codec::{DecodeError, Reader, Wire, Writer};
use std::cmp::Ordering;
use std::fmt;

/// A double that is not NaN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score(f64);

impl Score {
    /// Smaller than all others.
    pub const MIN: Self = Self(f64::NEG_INFINITY);
    /// Larger than all others.
    pub const MAX: Self = Self(f64::INFINITY);

    /// A score; nothing for NaN.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (!value.is_nan()).then_some(Self(value + 0.0))
    }

    /// The nearest score to an integer.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Self(value as f64)
    }

    /// The double.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The double's bits (IEEE 754), to be kept among other bytes.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// A score from its bits; nothing for those of NaN.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Self::new(f64::from_bits(bits))
    }

    /// The sum; nothing when it is not a number (∞ − ∞).
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0)
    }

    /// The product; nothing when it is not a number (0 × ∞).
    #[must_use]
    pub fn times(self, other: Self) -> Option<Self> {
        Self::new(self.0 * other.0)
    }

    /// The whole number towards zero; the nearest there is, beyond 64 bits.
    #[must_use]
    pub fn truncated(self) -> i64 {
        self.0 as i64
    }

    /// How many bits and hashes a Bloom filter needs that errs at this rate, halved so often, with so many items in it; nothing for a rate that is
    /// none, or more bits than can be. Source: Bloom, CACM 13(7), 1970; the logarithm is one library's, the same on every machine.
    #[must_use]
    pub fn filter_shape(self, halvings: u32, items: u64) -> Option<(u64, u32)> {
        const LN_2: f64 = std::f64::consts::LN_2;
        let error = self.0 * libm::exp2(-f64::from(halvings));
        if !(error > 0.0 && error < 1.0) || items == 0 {
            return None;
        }
        let per_item = -libm::log(error) / (LN_2 * LN_2);
        let bits = items as f64 * per_item;
        (bits < 1e18).then(|| ((bits as u64).max(1).next_multiple_of(64), libm::ceil(LN_2 * per_item) as u32))
    }

    /// With so many digits after the point.
    #[must_use]
    pub fn fixed(self, digits: usize) -> String {
        format!("{:.digits$}", self.0)
    }

    /// Reads a whole text as C's `strtod` does, without its hexadecimal form: a decimal number, or a signed `inf` or `infinity` in any case.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let number = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && !number.eq_ignore_ascii_case("inf")
            && !number.eq_ignore_ascii_case("infinity")
        {
            return None;
        }
        let value: f64 = text.parse().ok()?;
        // A number too large or too small for a double is none, as for `strtod` with its ERANGE.
        let digits = number.split(['e', 'E']).next().unwrap_or_default();
        let lost = (value.is_infinite() && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
            || (value == 0.0 && digits.contains(|c: char| ('1'..='9').contains(&c)));
        if lost {
            return None;
        }
        Self::new(value)
    }
}

impl fmt::Display for Score {
    /// As Redis prints doubles since 7.2: the shortest digits that read back as the same double; when they are written plain and when with an
    /// exponent is the rule of fpconv (Loitsch, "Printing Floating-Point Numbers Quickly and Accurately with Integers", PLDI 2010).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "inf" } else { "-inf" });
        }
        if value.abs() <= INTEGER_MAX && value == value.trunc() {
            return write!(f, "{}", value as i64);
        }
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').expect("the form of an exponent");
        let exponent: i32 = exponent.parse().expect("an exponent is a number");
        let digits = mantissa.bytes().filter(u8::is_ascii_digit).count() as i32;
        // The place of the last digit: 0 for a whole number that ends in it.
        let last = exponent - (digits - 1);
        let plain = if last >= 0 { exponent < digits + 7 } else { last > -7 || exponent.abs() < 4 };
        if plain {
            return write!(f, "{value}");
        }
        write!(f, "{mantissa}e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
    }
}

/// Largest size of a whole number that prints as an integer, whatever its digits.
const INTEGER_MAX: f64 = (i64::MAX / 2) as f64;

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Score {}
impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Wire for Score {
    fn put(&self, out: &mut Writer) {
        out.raw(&self.0.to_bits().to_le_bytes());
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = u64::from_le_bytes(from.raw(8)?.try_into().expect("eight bytes were asked for"));
        Self::new(f64::from_bits(bits))
            .ok_or(DecodeError::Range { what: "a score that is no number", found: bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn it_prints_as_redis_does() {
        let shown = |value: f64| Score::new(value).unwrap().to_string();
        assert_eq!(shown(3.0), "3");
        assert_eq!(shown(-0.0), "0");
        assert_eq!(shown(3.1), "3.1");
        assert_eq!(shown(1e17), "100000000000000000");
        assert_eq!(shown(1e20), "1e+20");
        assert_eq!(shown(12345678901234567890.0), "12345678901234567000");
        assert_eq!(shown(-123456789012345e8), "-1.23456789012345e+22");
        assert_eq!(shown(1234.12345678), "1234.12345678");
        assert_eq!(shown(12345.12345678), "1.234512345678e+4");
        assert_eq!(shown(0.001234567891), "0.001234567891");
        assert_eq!(shown(0.00012345678), "1.2345678e-4");
        assert_eq!(shown(1e-6), "0.000001");
        assert_eq!(shown(1e-7), "1e-7");
        assert_eq!(shown(5e-324), "5e-324");
        assert_eq!(shown(1.5e-7), "1.5e-7");
        assert_eq!(shown(f64::NEG_INFINITY), "-inf");
    }

    #[test]
    fn it_reads_numbers_and_infinities_and_nothing_else() {
        for (text, value) in [
            ("1.5", 1.5),
            ("-.5", -0.5),
            ("1e3", 1000.0),
            ("+inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(Score::parse(text.as_bytes()).map(Score::get), Some(value), "{text}");
        }
        for text in ["", "nan", "abc", " 1", "1 ", "1e", "--1", "1e400", "-1e400", "1e-400", "\u{ff11}"] {
            assert_eq!(Score::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused_when_read() {
        let bytes = f64::NAN.to_bits().to_le_bytes().to_vec();
        assert!(decode::<Score>(&bytes.into()).is_err());
        assert_eq!(decode::<Score>(&encode(&Score::MAX).into()), Ok(Score::MAX));
    }
}
