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
#[derive(Default)]
pub struct KeyDownload {
    /// In any order.
    pub packets: Vec<KeyPacket>,
}

/// Keys of one SA.
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

    /// One of them.
    ///
    /// # Errors
    /// It is not there.
    pub fn key(&self, class: u16, name: &'static str) -> Result<&[u8], Malformed> {
        let found = self.keys.iter().find(|(other, _)| *other == class);
        found.map(|(_, key)| key.as_slice()).ok_or(Malformed::Missing(name))
    }
}

impl KeyDownload {
    /// The packet of this type for an SA.
    ///
    /// # Errors
    /// It is not there.
    pub fn packet(&self, kind: u8, spi: &[u8]) -> Result<&KeyPacket, Malformed> {
        let found = self.packets.iter().find(|packet| packet.kind == kind && packet.spi == spi);
        found.ok_or(Malformed::Missing("key packet"))
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
