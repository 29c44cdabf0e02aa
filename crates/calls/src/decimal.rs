//! Exact decimal numbers, for INCRBYFLOAT and HINCRBYFLOAT: sums that people can check by hand, the same on every processor.
//!
//! Redis adds in the processor's long doubles and prints 17 places without trailing zeros. Adding decimals exactly gives the same answer wherever
//! long doubles are exact enough, and the right one where they are not.
//!
//! Invariant: a number has at most [`DIGITS_MAX`] digits before its point and 17 behind it.
//! Called by: `strings`, `hashes`, and `args` for times to wait.

use quorate_types::Millis;

/// Most digits before the point; a longer number is refused as infinite.
const DIGITS_MAX: usize = 4096;
/// Digits behind the point.
const PLACES: usize = 17;

/// A decimal number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    /// Digits of the number times 10^17, the lowest first, without zeros at the top.
    digits: Vec<u8>,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A number.
    Finite(Decimal),
    /// Infinite, or beyond all bounds.
    Infinite,
    /// None.
    Nothing,
}

impl Decimal {
    /// Reads a whole word, with or without a fraction and an exponent.
    pub(crate) fn parse(word: &[u8]) -> Parsed {
        let (negative, number) = match word {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, word),
        };
        if number.eq_ignore_ascii_case(b"inf") || number.eq_ignore_ascii_case(b"infinity") {
            return Parsed::Infinite;
        }
        let end = number.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(number.len());
        let (mantissa, exponent) = (&number[..end], number.get(end + 1..));
        let Some(exponent) = exponent.map_or(Some(0), exponent_of) else { return Parsed::Nothing };
        let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
        let fraction = mantissa.get(point + 1..).unwrap_or_default();
        let whole = &mantissa[..point];
        if whole.len() + fraction.len() == 0 || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Parsed::Nothing;
        }
        let mut digits: Vec<u8> =
            fraction.iter().rev().chain(whole.iter().rev()).map(|byte| byte - b'0').collect();
        // How many of `digits` stand behind the point once the exponent has moved it.
        let behind = i64::try_from(fraction.len()).unwrap_or(i64::MAX) - exponent;
        trim(&mut digits);
        let above = i64::try_from(digits.len()).unwrap_or(i64::MAX) - behind;
        if !digits.is_empty() && above > DIGITS_MAX as i64 {
            return Parsed::Infinite;
        }
        Parsed::Finite(Self::scaled(negative, digits, behind))
    }

    fn scaled(negative: bool, mut digits: Vec<u8>, behind: i64) -> Self {
        let shift = PLACES as i64 - behind;
        if digits.is_empty() {
            return Self { negative: false, digits };
        }
        if shift >= 0 {
            let zeros =
                usize::try_from(shift).expect("not below zero, and bounded by the digits above the point");
            digits.splice(0..0, std::iter::repeat_n(0, zeros));
        } else {
            let cut = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
            let up = cut <= digits.len() && digits[cut - 1] >= 5;
            digits.drain(..cut.min(digits.len()));
            if up {
                digits = add(&digits, &[1]);
            }
        }
        trim(&mut digits);
        Self { negative: negative && !digits.is_empty(), digits }
    }

    /// The sum; nothing when it is too long.
    pub(crate) fn plus(&self, other: &Self) -> Option<Self> {
        let sum = if self.negative == other.negative {
            Self { negative: self.negative, digits: add(&self.digits, &other.digits) }
        } else if self.is_smaller(other) {
            Self { negative: other.negative, digits: subtract(&other.digits, &self.digits) }
        } else {
            Self { negative: self.negative, digits: subtract(&self.digits, &other.digits) }
        };
        let negative = sum.negative && !sum.digits.is_empty();
        (sum.digits.len() <= DIGITS_MAX + PLACES).then_some(Self { negative, ..sum })
    }

    fn is_smaller(&self, other: &Self) -> bool {
        let by_length = self.digits.len().cmp(&other.digits.len());
        by_length.then_with(|| self.digits.iter().rev().cmp(other.digits.iter().rev())).is_lt()
    }

    /// Whether it is below zero.
    pub(crate) fn is_negative(&self) -> bool {
        self.negative
    }

    /// Seconds as milliseconds, rounded up; nothing beyond what Redis waits.
    pub(crate) fn millis(&self) -> Option<Millis> {
        let behind = self.digits.len().min(PLACES - 3);
        let up = self.digits[..behind].iter().any(|digit| *digit != 0);
        let mut millis: i64 = 0;
        for digit in self.digits[behind..].iter().rev() {
            millis = millis.checked_mul(10)?.checked_add(i64::from(*digit))?;
        }
        Some(Millis(millis.checked_add(i64::from(up))?.unsigned_abs()))
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut digits = self.digits.clone();
        if digits.len() < PLACES + 1 {
            digits.resize(PLACES + 1, 0);
        }
        let zeros = digits[..PLACES].iter().take_while(|digit| **digit == 0).count();
        let mut text = String::with_capacity(digits.len() + 2);
        if self.negative {
            text.push('-');
        }
        for (place, digit) in digits.iter().enumerate().skip(zeros).rev() {
            text.push(char::from(b'0' + digit));
            if place == PLACES && zeros < PLACES {
                text.push('.');
            }
        }
        f.write_str(&text)
    }
}

fn exponent_of(word: &[u8]) -> Option<i64> {
    let (negative, digits) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, word),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Beyond a billion all exponents say the same: nothing, or too much.
    let size =
        digits.iter().fold(0_i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1_000_000_000));
    Some(if negative { -size } else { size })
}

fn trim(digits: &mut Vec<u8>) {
    while digits.last() == Some(&0) {
        digits.pop();
    }
}

fn add(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut sum = Vec::with_capacity(left.len().max(right.len()) + 1);
    let mut carry = 0;
    for at in 0..left.len().max(right.len()) {
        let digit = left.get(at).unwrap_or(&0) + right.get(at).unwrap_or(&0) + carry;
        sum.push(digit % 10);
        carry = digit / 10;
    }
    sum.push(carry);
    trim(&mut sum);
    sum
}

/// `left` is at least `right`.
fn subtract(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(left.len());
    let mut borrow = 0;
    for (at, digit) in left.iter().enumerate() {
        let take = right.get(at).unwrap_or(&0) + borrow;
        borrow = u8::from(*digit < take);
        rest.push(digit + 10 * borrow - take);
    }
    trim(&mut rest);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        match Decimal::parse(text.as_bytes()) {
            Parsed::Finite(number) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn sums_are_those_of_paper_and_pencil() {
        let table = [
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "200", "5200"),
            ("10.6", "-5", "5.6"),
            ("1", "-1", "0"),
            ("-1", "0.5", "-0.5"),
            ("3", "-10.25", "-7.25"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "1e-18", "0"),
            ("0", "5e-18", "0.00000000000000001"),
            ("0.99999999999999999", "0.00000000000000001", "1"),
            ("123456789012345678901234567890", "1", "123456789012345678901234567891"),
            ("1e20", ".5", "100000000000000000000.5"),
            ("0", "-1e-999999999999", "0"),
        ];
        for (left, right, sum) in table {
            assert_eq!(number(left).plus(&number(right)).unwrap().to_string(), sum, "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_number_is_told_from_what_is_too_large() {
        for text in ["", "-", ".", "1e", "1e+", "a", "1.2.3", " 1", "1 ", "0x10", "nan", "--1"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Parsed::Nothing, "{text}");
        }
        for text in ["inf", "-Infinity", "1e5000", "1e99999999999999999999"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Parsed::Infinite, "{text}");
        }
    }

    #[test]
    fn seconds_become_milliseconds_rounded_up() {
        for (text, millis) in [("0", 0), ("0.0001", 1), ("0.1", 100), ("1.5", 1500), ("2", 2000)] {
            assert_eq!(number(text).millis(), Some(Millis(millis)), "{text}");
        }
        assert_eq!(number("1e300").millis(), None);
    }
}
