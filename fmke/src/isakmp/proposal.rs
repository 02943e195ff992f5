//! What is offered in phase 1, and chosen of it (RFC 2408 3.4 to 3.6, RFC 2409 Appendix A).

use super::attribute::{Attribute, attributes};
use super::bytes::{Malformed, Reader, expect};
use super::chain::{Chain, within};
use super::kind;

/// `SIT_IDENTITY_ONLY` (RFC 2407 4.2.1).
const IDENTITY_ONLY: u32 = 1;
/// `PROTO_ISAKMP`, `KEY_IKE` (RFC 2407 4.4.1, 4.4.2).
const PROTO_ISAKMP: u8 = 1;
const KEY_IKE: u8 = 1;
/// Transforms of one offer, at most.
const MOST_TRANSFORMS: usize = 32;

/// Attributes of a transform (RFC 2409 Appendix A).
pub mod phase1_attribute {
    /// Cipher.
    pub const ENCRYPTION: u16 = 1;
    /// Hash, and by it the prf.
    pub const HASH: u16 = 2;
    /// How the two show who they are.
    pub const AUTHENTICATION: u16 = 3;
    /// Diffie-Hellman group.
    pub const GROUP: u16 = 4;
    /// What the duration counts: 1, seconds.
    pub const LIFE_TYPE: u16 = 11;
    /// How long the SA lives.
    pub const LIFE_DURATION: u16 = 12;
    /// Bits of the key of a cipher that has several.
    pub const KEY_LENGTH: u16 = 14;
}

/// One way to protect what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform<'a> {
    /// Of the proposal that it stands in.
    pub proposal: u8,
    /// Its own number there.
    pub number: u8,
    /// Its attributes as they stand: whoever chooses it sends them back unchanged.
    pub attributes: &'a [u8],
}

impl Transform<'_> {
    /// All transforms of the body of an SA payload, best first, and the DOI. Proposals of other protocols than ISAKMP are
    /// passed over.
    ///
    /// # Errors
    /// Another form, another situation, no proposal, more than 32 transforms.
    pub fn offer(body: &[u8]) -> Result<(u32, Vec<Transform<'_>>), Malformed> {
        let mut reader = Reader::new(body);
        let doi = reader.u32()?;
        expect("Situation", reader.u32()?, IDENTITY_ONLY)?;
        let mut list = Vec::new();
        // RFC 2409 5 wants one proposal alone, of many transforms; who splits them loses nothing by it: one is chosen of all.
        for raw in within(kind::PROPOSAL, reader.rest(), &[kind::PROPOSAL])? {
            proposal(raw.body, &mut list)?;
        }
        Ok((doi, list))
    }

    /// Its attributes, by class.
    ///
    /// # Errors
    /// Attributes that are cut short, or too many.
    pub fn attributes(&self) -> Result<Vec<Attribute<'_>>, Malformed> {
        attributes(self.attributes)
    }
}

fn proposal<'a>(body: &'a [u8], list: &mut Vec<Transform<'a>>) -> Result<(), Malformed> {
    let mut reader = Reader::new(body);
    let (number, protocol, spi_len, count) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
    // "the SPI Size is irrelevant and MAY be from zero (0) to sixteen (16). If the SPI Size is non-zero, the content of the
    // SPI field MUST be ignored" (RFC 2408 3.5)
    if protocol == PROTO_ISAKMP && spi_len > 16 {
        return Err(Malformed::Field { field: "SPI Size", value: spi_len.into() });
    }
    reader.bytes(usize::from(spi_len))?;
    let transforms = within(kind::TRANSFORM, reader.rest(), &[kind::TRANSFORM])?;
    expect("# of Transforms", count, transforms.len() as u32)?;
    for raw in transforms {
        let mut inside = Reader::new(raw.body);
        let (transform, id) = (inside.u8()?, inside.u8()?);
        expect("RESERVED2", inside.u16()?, 0u16)?;
        if protocol != PROTO_ISAKMP || id != KEY_IKE {
            continue;
        }
        if list.len() == MOST_TRANSFORMS {
            return Err(Malformed::TooMany);
        }
        list.push(Transform { proposal: number, number: transform, attributes: inside.rest() });
    }
    Ok(())
}

/// The body of an SA payload of phase 1: one proposal with these transforms, at least one and at most 32; its number is that
/// of the first.
pub fn write_proposal(doi: u32, transforms: &[Transform<'_>]) -> Vec<u8> {
    let mut inside = Chain::new();
    for transform in transforms {
        inside.add(kind::TRANSFORM, &[&[transform.number, KEY_IKE, 0, 0], transform.attributes].concat());
    }
    let number = transforms.first().map_or(1, |transform| transform.proposal);
    let count = u8::try_from(transforms.len()).unwrap_or(u8::MAX);
    let mut proposal = Chain::new();
    proposal.add(kind::PROPOSAL, &[&[number, PROTO_ISAKMP, 0, count], inside.bytes()].concat());
    [&doi.to_be_bytes(), &IDENTITY_ONLY.to_be_bytes(), proposal.bytes()].concat()
}
