//! Numbers as texts, in the forms of C and of Redis.
//!
//! Invariant: exact: the standard library reads and prints doubles correctly rounded, so every platform has the same bytes.
//! Called by: the libraries and the conversion of arguments.

/// C's `%.<digits>g`.
pub(crate) fn general(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan" } else { "nan" }.to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let text = format!("{:.*e}", digits.max(1) - 1, value);
    let (mantissa, exponent) = text.split_once('e').expect("the form of an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a small integer");
    if exponent < -4 || exponent >= digits.max(1) as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = (digits.max(1) as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// How Redis 7.2 turns a number into an argument of a command: an integer below 2^52 in digits, else the shortest digits that read back.
pub(crate) fn argument(value: f64) -> String {
    const EXACT: f64 = 4_503_599_627_370_496.0;
    if value > -EXACT && value < EXACT && value.trunc() == value {
        return (value as i64).to_string();
    }
    if value.is_nan() || value.is_infinite() {
        return general(value, 17);
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("the form of an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a small integer");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = digits.len() as i32;
    let shift = exponent + 1 - count; // The value is digits × 10^shift.
    if shift >= 0 && exponent.abs() < count + 7 {
        return format!("{sign}{digits}{}", "0".repeat(shift as usize));
    }
    if shift < 0 && (shift > -7 || exponent.abs() < 4) {
        let whole = count + shift;
        if whole <= 0 {
            return format!("{sign}0.{}{digits}", "0".repeat(-whole as usize));
        }
        let (whole, rest) = digits.split_at(whole as usize);
        return format!("{sign}{whole}.{rest}");
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let minus = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}e{minus}{}", exponent.abs())
}

/// A number as the language reads one from a string: decimal, hexadecimal, or an infinity, with space around it.
pub(crate) fn parse(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let (negative, number) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value = if let Some(hex) = number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        hex.bytes().fold(0.0, |sum, b| sum * 16.0 + f64::from((b as char).to_digit(16).unwrap_or(0)))
    } else {
        let starts = number.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let named = ["inf", "infinity", "nan"].iter().any(|name| number.eq_ignore_ascii_case(name));
        if !starts && !named {
            return None;
        }
        number.parse().ok()?
    };
    Some(if negative { -value } else { value })
}

/// C's cast to a 64-bit integer on the processors that servers have: what does not fit is the smallest.
pub(crate) fn truncate(value: f64) -> i64 {
    const TOP: f64 = 9_223_372_036_854_775_808.0;
    if (-TOP..TOP).contains(&value) { value as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_general_number_prints_as_c_prints_it() {
        for (value, wanted) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100.0, "100"),
            (1e14, "1e+14"),
            (99_999_999_999_999.0, "99999999999999"),
            (1e15, "1e+15"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e300, "1e+300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(general(value, 14), wanted);
        }
    }

    #[test]
    fn an_argument_keeps_every_digit_and_no_more() {
        for (value, wanted) in [
            (3.0, "3"),
            (-7.0, "-7"),
            (1e15, "1000000000000000"),
            (1e20, "1e+20"),
            (0.1, "0.1"),
            (1.5, "1.5"),
            (-2.25, "-2.25"),
            (1e-9, "1e-9"),
            (0.001, "0.001"),
            (1.25e-10, "1.25e-10"),
            (3.0e-5, "0.00003"),
        ] {
            assert_eq!(argument(value), wanted);
        }
    }

    #[test]
    fn strings_are_numbers_as_the_language_has_them() {
        assert_eq!(parse(b" 0x10 "), Some(16.0));
        assert_eq!(parse(b"-1.5e2"), Some(-150.0));
        assert_eq!(parse(b"1x"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(truncate(-3.99), -3);
        assert_eq!(truncate(1e30), i64::MIN);
        assert_eq!(truncate(f64::NAN), i64::MIN);
    }
}
