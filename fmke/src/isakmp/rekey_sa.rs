//! A re-key SA: the SAK payload (RFC 6407 5.3, draft 7.7).

use std::net::IpAddr;

use super::attribute::{Attribute, attributes};
use super::bytes::{Malformed, Reader, expect};
use super::ends::{address_end, one_family, write_end};
use super::identity::Identity;

/// UDP, the protocol of re-key messages.
const UDP: u8 = 17;

/// Attributes of a SAK payload (RFC 6407 5.3.1, draft 7.7.1).
pub mod kek_attribute {
    /// How members are excluded.
    pub const MANAGEMENT: u16 = 1;
    /// Cipher of re-key messages.
    pub const ALGORITHM: u16 = 2;
    /// Bits of its key.
    pub const KEY_LENGTH: u16 = 3;
    /// Seconds.
    pub const LIFETIME: u16 = 4;
    /// Algorithm of the signature.
    pub const SIGNATURE: u16 = 6;
    /// Of the hash in negative acknowledgements.
    pub const HASH: u16 = 9;
    /// The number of the next message.
    pub const NEXT_SEQUENCE: u16 = 10;
}

/// The body of a SAK payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RekeySa {
    /// Where re-key messages come from, and the port, which is not 0, that negative acknowledgements go to.
    pub source: (IpAddr, u16),
    /// Where they go; the port is not 0.
    pub destination: (IpAddr, u16),
    /// Both cookies of their header.
    pub spi: [u8; 16],
    /// Class and value, each class once; also those that only their reader may know.
    pub attributes: Vec<(u16, u32)>,
}

impl RekeySa {
    /// The value of an attribute.
    ///
    /// # Errors
    /// It is not there.
    pub fn attribute(&self, class: u16, name: &'static str) -> Result<u32, Malformed> {
        let found = self.attributes.iter().find(|(other, _)| *other == class);
        found.map(|(_, value)| *value).ok_or(Malformed::Missing(name))
    }

    pub(super) fn to_body(&self) -> Vec<u8> {
        let mut body = vec![UDP];
        write_end(&mut body, &Identity::Address(self.source.0), self.source.1);
        write_end(&mut body, &Identity::Address(self.destination.0), self.destination.1);
        body.extend_from_slice(&self.spi);
        // No proof of possession; RFC 6407 reserves these octets.
        body.extend_from_slice(&[0; 4]);
        for (class, value) in &self.attributes {
            match u16::try_from(*value) {
                // "The value is a four (4) octet number" (draft 7.7.5). NEXT_SEQ_NUMBER is basic (7.7.1), but what it
                // counts has four octets (7.5): it is basic while it fits.
                Ok(value) if *class != kek_attribute::LIFETIME => Attribute::basic(*class, value).write(&mut body),
                _ => Attribute::number(*class, *value).write(&mut body),
            }
        }
        body
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        expect("Protocol", reader.u8()?, UDP)?;
        let source = address_end(&mut reader, "SRC ID Type")?;
        let destination = address_end(&mut reader, "DST ID Type")?;
        one_family(source.0, destination.0, "DST ID Type")?;
        // "A value of zero means that the SRC ID Port field should be ignored" (draft 7.7): but it is where members ask.
        for (field, (_, port)) in [("SRC ID Port", source), ("DST ID Port", destination)] {
            if port == 0 {
                return Err(Malformed::Field { field, value: 0 });
            }
        }
        let spi = reader.array()?;
        // "If no POP algorithm is defined in the KEK policy, this field must be zero" (draft 7.7), both.
        expect("POP Algorithm", reader.u16()?, 0u16)?;
        expect("POP Key Length", reader.u16()?, 0u16)?;
        let mut sa = RekeySa { source, destination, spi, attributes: Vec::new() };
        for attribute in attributes(reader.rest())? {
            sa.take(&attribute)?;
        }
        Ok(sa)
    }

    fn take(&mut self, attribute: &Attribute<'_>) -> Result<(), Malformed> {
        use kek_attribute::{HASH, LIFETIME, MANAGEMENT};
        let class = attribute.class;
        let value = match class {
            MANAGEMENT..=HASH if class != LIFETIME => attribute.to_basic()?.into(),
            _ => attribute.to_number()?,
        };
        match self.attributes.iter().find(|(other, _)| *other == class) {
            None => self.attributes.push((class, value)),
            Some((_, other)) if *other == value => {}
            Some(_) => return Err(Malformed::Conflict("KEK attributes")),
        }
        Ok(())
    }
}
