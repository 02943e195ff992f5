//! SAs that are no more (RFC 2408 3.15, draft 5.0).

use super::bytes::{Malformed, Reader};

/// SPIs of one payload, at most.
const MOST_SPIS: usize = 256;

/// The body of a delete payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Of whose numbers.
    pub doi: u32,
    /// 1: in an informational exchange SAs of ISAKMP (RFC 2407 4.4.1), in a push those of ESP (draft 7.8). "To delete a KEK
    /// SA, the value of zero MUST be used" (draft 5.0).
    pub protocol: u8,
    /// Which: at least one, all of one length.
    pub spis: Vec<Vec<u8>>,
}

impl Delete {
    /// Reads it.
    ///
    /// # Errors
    /// Too short, too long, no SPI, more than 256, SPIs of no octets.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (doi, protocol, spi_len, count) = (reader.u32()?, reader.u8()?, reader.u8()?, usize::from(reader.u16()?));
        match (spi_len, count) {
            (0, _) => return Err(Malformed::Field { field: "SPI Size", value: 0 }),
            (_, 0) => return Err(Malformed::Field { field: "# of SPIs", value: 0 }),
            (_, 1..=MOST_SPIS) => {}
            _ => return Err(Malformed::TooMany),
        }
        let spis =
            (0..count).map(|_| reader.bytes(usize::from(spi_len)).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Delete { doi, protocol, spis })
    }

    /// The body.
    pub fn to_body(&self) -> Vec<u8> {
        let spi_len = self.spis.first().map_or(0, Vec::len);
        let mut body = self.doi.to_be_bytes().to_vec();
        body.extend_from_slice(&[self.protocol, u8::try_from(spi_len).unwrap_or(u8::MAX)]);
        body.extend_from_slice(&u16::try_from(self.spis.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.spis.iter().for_each(|spi| body.extend_from_slice(spi));
        body
    }
}
