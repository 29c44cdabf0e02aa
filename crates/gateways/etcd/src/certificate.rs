//! Whom a client's certificate names: the common name of its subject, as etcd reads it with `--client-cert-auth`.
//!
//! Only certificates that TLS has verified come here; still nothing is believed about their bytes. One without a name that can be read has the
//! empty one, which is nobody's.
//!
//! Invariant: no bytes make this panic, and it looks at each byte once.
//! Called by: `serve`, once a connection; `auth`, for what it found.
//! Source: RFC 5280 §4.1 (Certificate, Name), ITU-T X.690 (DER).

use quorate_types::Blob;

/// The common name of a verified certificate; goes with each request of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonName(pub(crate) Blob);

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0] EXPLICIT`, in which the version stands.
const VERSION: u8 = 0xa0;
/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

impl CommonName {
    /// The last common name of the subject, as Go's libraries choose where there are several.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        Self(Blob::copy_from(found(certificate).unwrap_or_default().as_bytes()))
    }
}

fn found(certificate: &[u8]) -> Option<&str> {
    let mut found = None;
    let mut subject = subject(certificate)?;
    while !subject.is_empty() {
        let mut attributes = take(&mut subject, SET)?;
        while !attributes.is_empty() {
            let mut attribute = take(&mut attributes, SEQUENCE)?;
            let kind = take(&mut attribute, OBJECT_IDENTIFIER)?;
            let (tag, value) = next(&mut attribute)?;
            if kind == COMMON_NAME {
                let known = matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
                found = std::str::from_utf8(value).ok().filter(|_| known);
            }
        }
    }
    found
}

/// What stands in the subject of a certificate.
fn subject(mut certificate: &[u8]) -> Option<&[u8]> {
    let mut certificate = take(&mut certificate, SEQUENCE)?;
    let mut signed = take(&mut certificate, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        take(&mut signed, VERSION)?;
    }
    take(&mut signed, INTEGER)?; // Serial number.
    take(&mut signed, SEQUENCE)?; // Algorithm of the signature.
    take(&mut signed, SEQUENCE)?; // Issuer.
    take(&mut signed, SEQUENCE)?; // Validity.
    take(&mut signed, SEQUENCE)
}

/// The contents of the next value, which has to be of a kind.
fn take<'a>(bytes: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    next(bytes).filter(|(tag, _)| *tag == wanted).map(|(_, contents)| contents)
}

/// The next value: its tag and contents.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate fits a handshake: its lengths have three bytes at most.
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, contents))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    fn made(names: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn named(name: &str) -> CommonName {
        CommonName(Blob::from(name))
    }

    #[test]
    fn the_common_name_of_the_subject_is_found() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let printable = DnValue::PrintableString("ann".try_into().unwrap());
        let ia5 = DnValue::Ia5String("ann@shop".try_into().unwrap());
        let long = "x".repeat(300);
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, utf8("ann"))])), named("ann"));
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, printable)])), named("ann"));
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, ia5)])), named("ann@shop"));
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, utf8(&long))])), named(&long));
        let several = [(DnType::OrganizationName, utf8("shop")), (DnType::CommonName, utf8("Ängström"))];
        assert_eq!(CommonName::of(&made(&several)), named("Ängström"));
    }

    #[test]
    fn a_certificate_without_a_common_name_names_nobody() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let wide = DnValue::BmpString("ann".try_into().unwrap());
        assert_eq!(CommonName::of(&made(&[])), named(""));
        assert_eq!(CommonName::of(&made(&[(DnType::OrganizationName, utf8("shop"))])), named(""));
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, utf8(""))])), named(""));
        assert_eq!(CommonName::of(&made(&[(DnType::CommonName, wide)])), named(""));
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody_and_do_no_harm() {
        let whole = made(&[(DnType::CommonName, DnValue::Utf8String("ann".to_owned()))]);
        for end in 0..whole.len() {
            assert_eq!(CommonName::of(&whole[..end]), named(""), "the first {end} bytes");
        }
        // Each byte changed to what a length or a tag may be: it may name somebody else, and must not panic.
        for at in 0..whole.len() {
            for byte in [0, 0x30, 0x7f, 0x80, 0x81, 0x82, 0x83, 0x84, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let _ = CommonName::of(&bytes);
            }
        }
    }
}
