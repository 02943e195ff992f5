//! Keys (RFC 6407 5.6, draft 7.9).

use zeroize::Zeroizing;

use super::attribute::attributes;
use super::bytes::{Malformed, Reader, expect};

/// Key packets of one payload, at most.
const MOST_PACKETS: usize = 64;
/// Octets of a key packet before its SPI.
const PACKET_LEN: usize = 5;

/// Types of key packets.
pub mod key_type {
    /// Of an SA of ESP.
    pub const TEK: u8 = 1;
    /// Of a re-key SA.
    pub const KEK: u8 = 2;
    /// Of the logical key hierarchy.
    pub const LKH: u8 = 3;
}

/// Attributes of a TEK packet.
pub mod tek_key {
    /// Of the cipher.
    pub const ALGORITHM: u16 = 1;
}

/// Attributes of a KEK packet (draft 7.9.2).
pub mod kek_key {
    /// Of the cipher.
    pub const ALGORITHM: u16 = 1;
    /// Public, of the signature.
    pub const SIGNATURE: u16 = 2;
    /// Of the hash in negative acknowledgements.
    pub const GROUP_AUTH: u16 = 3;
}

/// The body of a KD payload. **Secret**: erased when dropped, not printable.
#[derive(Clone, Default)]
pub struct KeyDownload {
    /// In any order.
    pub packets: Vec<KeyPacket>,
}

/// Keys of one SA.
#[derive(Clone)]
pub struct KeyPacket {
    /// One of [`key_type`].
    pub kind: u8,
    /// As in the SAK or SAT payload.
    pub spi: Vec<u8>,
    /// By class.
    pub keys: Vec<(u16, Zeroizing<Vec<u8>>)>,
}

impl KeyPacket {
    /// Keys of the type `kind` for an SA.
    pub fn new(kind: u8, spi: &[u8]) -> Self {
        KeyPacket { kind, spi: spi.to_vec(), keys: Vec::new() }
    }

    /// Adds one.
    #[must_use]
    pub fn with(mut self, class: u16, key: &[u8]) -> Self {
        self.keys.push((class, Zeroizing::new(key.to_vec())));
        self
    }

    /// The only one of this class.
    ///
    /// # Errors
    /// There is none, or another one.
    pub fn key(&self, class: u16, name: &'static str) -> Result<&[u8], Malformed> {
        // "Exactly one attribute matching each type sent in the SAT payload MUST be present" (draft 7.9.1, of a SAK 7.9.2)
        let mut of_class = self.keys.iter().filter(|(other, _)| *other == class);
        let (_, key) = of_class.next().ok_or(Malformed::Missing(name))?;
        if of_class.next().is_some() { Err(Malformed::Conflict(name)) } else { Ok(key) }
    }
}

impl KeyDownload {
    /// The only packet of this type for an SA.
    ///
    /// # Errors
    /// There is none, or another one.
    pub fn packet(&self, kind: u8, spi: &[u8]) -> Result<&KeyPacket, Malformed> {
        let mut of_sa = self.packets.iter().filter(|packet| packet.kind == kind && packet.spi == spi);
        let packet = of_sa.next().ok_or(Malformed::Missing("key packet"))?;
        if of_sa.next().is_some() { Err(Malformed::Conflict("key packet")) } else { Ok(packet) }
    }

    /// The body of the payload.
    pub fn to_body(&self) -> Zeroizing<Vec<u8>> {
        let len = |packet: &KeyPacket| {
            PACKET_LEN + packet.spi.len() + packet.keys.iter().map(|(_, key)| 4 + key.len()).sum::<usize>()
        };
        let mut body = Zeroizing::new(Vec::with_capacity(4 + self.packets.iter().map(len).sum::<usize>()));
        body.extend_from_slice(&u16::try_from(self.packets.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(&[0, 0]);
        for packet in &self.packets {
            body.extend_from_slice(&[packet.kind, 0]);
            body.extend_from_slice(&u16::try_from(len(packet)).unwrap_or(u16::MAX).to_be_bytes());
            body.push(u8::try_from(packet.spi.len()).unwrap_or(u8::MAX));
            body.extend_from_slice(&packet.spi);
            for (class, key) in &packet.keys {
                body.extend_from_slice(&class.to_be_bytes());
                body.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
                body.extend_from_slice(key);
            }
        }
        body
    }

    /// Reads it.
    ///
    /// # Errors
    /// Lengths that do not fit, another count of packets than it says, more than 64; keys of two octets.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        // "Contains the total number of both TEK and Rekey arrays being passed in this data block" (draft 7.9)
        let count = usize::from(reader.u16()?);
        expect("RESERVED2", reader.u16()?, 0u16)?;
        if count > MOST_PACKETS {
            return Err(Malformed::TooMany);
        }
        let packets = (0..count).map(|_| packet(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(KeyDownload { packets })
    }
}

fn packet(reader: &mut Reader<'_>) -> Result<KeyPacket, Malformed> {
    let kind = reader.u8()?;
    // "RESERVED (1 octet) -- Unused, set to zero" (draft 7.9)
    expect("RESERVED", reader.u8()?, 0u8)?;
    let len = usize::from(reader.u16()?);
    if len < PACKET_LEN {
        return Err(Malformed::Field { field: "KD Length", value: len as u32 });
    }
    // "Length in octets of the Key Packet data, including the Key Packet header" (draft 7.9)
    let mut inside = Reader::new(reader.bytes(len - 4)?);
    let spi_len = usize::from(inside.u8()?);
    let spi = inside.bytes(spi_len)?.to_vec();
    let keys = attributes(inside.rest())?;
    let key = |attribute: &super::Attribute<'_>| Ok((attribute.class, Zeroizing::new(attribute.octets()?.to_vec())));
    Ok(KeyPacket { kind, spi, keys: keys.iter().map(key).collect::<Result<_, Malformed>>()? })
}
