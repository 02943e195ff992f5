//! An SA of ESP for one flow: the SAT payload (RFC 6407 5.5, draft 7.8).

use std::net::IpAddr;

use ipnet::IpNet;

use super::attribute::{Attribute, attributes, only};
use super::bytes::{Malformed, Reader, expect};
use super::ends::{address_end, net_end, one_family, write_end};
use super::identity::Identity;

/// `FMKE_PROTO_IPSEC_ESP` (draft 7.8).
const PROTO_ESP: u8 = 1;
/// AES-GCM with 16 octets of ICV among the transforms of ESP (RFC 4106 8.3).
const AES_GCM_16: u8 = 20;
/// Bits of its key.
const AES_256: u16 = 256;
/// Seconds, as the type of a lifetime (RFC 2407 4.5).
const SECONDS: u16 = 1;
/// Tunnel mode (RFC 2407 4.5).
const TUNNEL: u16 = 1;

/// Attributes of ESP (RFC 2407 4.5, RFC 6407 5.5.1.1).
mod esp_attribute {
    pub(super) const LIFE_TYPE: u16 = 1;
    pub(super) const LIFE_DURATION: u16 = 2;
    pub(super) const GROUP: u16 = 3;
    pub(super) const ENCAPSULATION: u16 = 4;
    pub(super) const KEY_LENGTH: u16 = 6;
    pub(super) const ADDRESS_PRESERVATION: u16 = 14;

    /// What is understood, or may be ignored.
    pub(super) const KNOWN: [u16; 6] =
        [LIFE_TYPE, LIFE_DURATION, GROUP, ENCAPSULATION, KEY_LENGTH, ADDRESS_PRESERVATION];
}

/// Which addresses of the inner header stand in the outer one (RFC 6407 5.5.1.1.1). A source (2, 4) is red: it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum PreservedAddress {
    /// None: unicast.
    None = 1,
    /// The destination: multicast.
    Destination = 3,
}

/// The body of a SAT payload. There is no SA Direction (RFC 6407 5.5.1.1.2): one message tells all members of an SA, and who
/// sends under it they see by its tunnel's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSa {
    /// IP protocol of the flow; 0: any.
    pub protocol: u8,
    /// Inner source, and its port; 0: any.
    pub source: (IpNet, u16),
    /// Inner destination, and its port; 0: any.
    pub destination: (IpNet, u16),
    /// Outer source and destination.
    pub tunnel: (IpAddr, IpAddr),
    /// Above 255.
    pub spi: u32,
    /// Seconds.
    pub lifetime: u32,
    /// What the outer header takes over.
    pub preserved: PreservedAddress,
}

impl TrafficSa {
    pub(super) fn to_body(&self) -> Vec<u8> {
        let mut body = vec![PROTO_ESP, self.protocol];
        write_end(&mut body, &Identity::of_net(self.source.0), self.source.1);
        write_end(&mut body, &Identity::of_net(self.destination.0), self.destination.1);
        write_end(&mut body, &Identity::Address(self.tunnel.0), 0);
        write_end(&mut body, &Identity::Address(self.tunnel.1), 0);
        body.push(AES_GCM_16);
        body.extend_from_slice(&self.spi.to_be_bytes());
        // Without Group Description, "which MUST NOT be sent by a FMKE implementation" (draft 7.8.1).
        for attribute in [
            Attribute::basic(esp_attribute::LIFE_TYPE, SECONDS),
            Attribute::number(esp_attribute::LIFE_DURATION, self.lifetime),
            Attribute::basic(esp_attribute::ENCAPSULATION, TUNNEL),
            Attribute::basic(esp_attribute::KEY_LENGTH, AES_256),
            Attribute::basic(esp_attribute::ADDRESS_PRESERVATION, self.preserved as u16),
        ] {
            attribute.write(&mut body);
        }
        body
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        expect("Protocol-ID", reader.u8()?, PROTO_ESP)?;
        let protocol = reader.u8()?;
        // Three zeros for all senders of a group, which the draft allows, are no address: each sender has its own SA.
        let source = net_end(&mut reader, "SRC ID Type")?;
        let destination = net_end(&mut reader, "DST ID Type")?;
        one_family(source.0.addr(), destination.0.addr(), "DST ID Type")?;
        // "Tunnel identifiers MUST therefore be mentioned" (draft 7.8.1)
        let (tunnel_source, source_port) = address_end(&mut reader, "TNL SRC ID Type")?;
        let (tunnel_destination, destination_port) = address_end(&mut reader, "TNL DST ID Type")?;
        one_family(tunnel_source, tunnel_destination, "TNL DST ID Type")?;
        // ESP has no ports.
        expect("TNL SRC ID Port", source_port, 0u16)?;
        expect("TNL DST ID Port", destination_port, 0u16)?;
        expect("Transform ID", reader.u8()?, AES_GCM_16)?;
        let spi = reader.u32()?;
        // Up to 255 they are reserved (RFC 4303 2.1).
        if spi < 256 {
            return Err(Malformed::Field { field: "SPI", value: spi });
        }
        let list = attributes(reader.rest())?;
        // The key hangs on what they say: of "a defined IPSEC DOI attribute … which it does not support … the security
        // association setup MUST be aborted" (RFC 2407 4.5.3). But the group of a key exchange "is ignored" (draft 7.8.1).
        if let Some(unknown) = list.iter().find(|attribute| !esp_attribute::KNOWN.contains(&attribute.class)) {
            return Err(Malformed::Field { field: "SA Attribute", value: unknown.class.into() });
        }
        let basic = |class, name| only(&list, class, name)?.to_basic();
        expect("SA Life Type", basic(esp_attribute::LIFE_TYPE, "SA Life Type")?, SECONDS)?;
        // "Group members shall therefore encapsulate data in tunnels." (draft 1.0)
        expect("Encapsulation Mode", basic(esp_attribute::ENCAPSULATION, "Encapsulation Mode")?, TUNNEL)?;
        expect("Key Length", basic(esp_attribute::KEY_LENGTH, "Key Length")?, AES_256)?;
        let preserved = match basic(esp_attribute::ADDRESS_PRESERVATION, "Address Preservation")? {
            1 => PreservedAddress::None,
            3 => PreservedAddress::Destination,
            other => return Err(Malformed::Field { field: "Address Preservation", value: other.into() }),
        };
        // "Address preservation MUST NOT be marked when the IP version of the encapsulating header and IP version of the
        // inner header do not match" (RFC 5374 5.1).
        if preserved == PreservedAddress::Destination {
            one_family(destination.0.addr(), tunnel_destination, "TNL DST ID Type")?;
        }
        let lifetime = only(&list, esp_attribute::LIFE_DURATION, "SA Life Duration")?.to_number()?;
        let tunnel = (tunnel_source, tunnel_destination);
        Ok(TrafficSa { protocol, source, destination, tunnel, spi, lifetime, preserved })
    }
}
