//! Data attributes (RFC 2408 3.3): two octets, or as many as a length says.

use std::borrow::Cow;

use super::bytes::{Malformed, Reader};

/// The first bit of a type says that the value is the next two octets.
const BASIC: u16 = 0x8000;
/// Attributes of one list, at most.
const MOST_ATTRIBUTES: usize = 64;

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Below 32,768; the DOI says what it means.
    pub class: u16,
    /// Its value.
    pub value: AttributeValue<'a>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    /// Two octets (TV).
    Basic(u16),
    /// Any number of them (TLV).
    Variable(Cow<'a, [u8]>),
}

impl<'a> Attribute<'a> {
    /// Of two octets.
    pub fn basic(class: u16, value: u16) -> Self {
        Attribute { class, value: AttributeValue::Basic(value) }
    }

    /// Of a length of its own.
    pub fn variable(class: u16, value: &'a [u8]) -> Self {
        Attribute { class, value: AttributeValue::Variable(Cow::Borrowed(value)) }
    }

    /// A number in four octets.
    pub fn number(class: u16, value: u32) -> Self {
        Attribute { class, value: AttributeValue::Variable(Cow::Owned(value.to_be_bytes().to_vec())) }
    }

    /// The value of an attribute that the DOI calls basic: those "MUST NOT be encoded as variable" (RFC 2407 4.5, RFC 2409
    /// Appendix A).
    ///
    /// # Errors
    /// One that has a length of its own.
    pub fn to_basic(&self) -> Result<u16, Malformed> {
        match &self.value {
            AttributeValue::Basic(value) => Ok(*value),
            AttributeValue::Variable(_) => {
                Err(Malformed::Field { field: "variable attribute", value: self.class.into() })
            }
        }
    }

    /// The value of an attribute that the DOI calls variable, as a number: it "MAY be encoded as basic" if it fits.
    ///
    /// # Errors
    /// A value of no octets, or of more than four that count.
    pub fn to_number(&self) -> Result<u32, Malformed> {
        match &self.value {
            AttributeValue::Basic(value) => Ok(u32::from(*value)),
            AttributeValue::Variable(octets) if octets.is_empty() => Err(Malformed::Truncated),
            AttributeValue::Variable(octets) => {
                let zeros = octets.iter().take_while(|octet| **octet == 0).count();
                let digits = &octets[zeros..];
                if digits.len() > 4 {
                    return Err(Malformed::Field { field: "octets of a number", value: digits.len() as u32 });
                }
                Ok(digits.iter().fold(0, |number, octet| number << 8 | u32::from(*octet)))
            }
        }
    }

    /// The octets of a value that has a length of its own.
    ///
    /// # Errors
    /// One that has none.
    pub fn octets(&self) -> Result<&[u8], Malformed> {
        match &self.value {
            AttributeValue::Variable(bytes) => Ok(bytes),
            // The class, not the value: that may be a key.
            AttributeValue::Basic(_) => Err(Malformed::Field { field: "basic attribute", value: self.class.into() }),
        }
    }

    /// Appends it.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        match &self.value {
            AttributeValue::Basic(value) => {
                bytes.extend_from_slice(&(self.class | BASIC).to_be_bytes());
                bytes.extend_from_slice(&value.to_be_bytes());
            }
            AttributeValue::Variable(value) => {
                bytes.extend_from_slice(&self.class.to_be_bytes());
                bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend_from_slice(value);
            }
        }
    }
}

/// A list of attributes, which goes to the end.
///
/// # Errors
/// One that is cut short; more than 64.
pub fn attributes(bytes: &[u8]) -> Result<Vec<Attribute<'_>>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut list = Vec::new();
    while !reader.is_empty() {
        if list.len() == MOST_ATTRIBUTES {
            return Err(Malformed::TooMany);
        }
        let (class, number) = (reader.u16()?, reader.u16()?);
        list.push(match class & BASIC {
            0 => Attribute::variable(class, reader.bytes(usize::from(number))?),
            _ => Attribute::basic(class & !BASIC, number),
        });
    }
    Ok(list)
}

/// The only attribute of this class. "If conflicting attributes are detected, … the security association setup MUST be
/// aborted"; the same said twice is no conflict (RFC 2407 4.5.2).
///
/// # Errors
/// There is none, or another one.
pub(super) fn only<'l, 'a>(
    list: &'l [Attribute<'a>],
    class: u16,
    name: &'static str,
) -> Result<&'l Attribute<'a>, Malformed> {
    let mut of_class = list.iter().filter(|attribute| attribute.class == class);
    let first = of_class.next().ok_or(Malformed::Missing(name))?;
    if of_class.all(|other| other == first) { Ok(first) } else { Err(Malformed::Conflict(name)) }
}
