//! Who, or which addresses (RFC 2407 4.6.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::bytes::{Malformed, Reader, expect};

/// Protocol of phase 1.
const UDP: u8 = 17;
/// A domain name or a distinguished name of at most so many octets is taken.
const MOST_OCTETS: usize = 1024;

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `ID_IPV4_ADDR` 1, `ID_IPV6_ADDR` 5.
    Address(IpAddr),
    /// `ID_IPV4_ADDR_SUBNET` 4, `ID_IPV6_ADDR_SUBNET` 6.
    Subnet(IpNet),
    /// `ID_FQDN` 2.
    Name(String),
    /// `ID_USER_FQDN` 3.
    User(String),
    /// `ID_DER_ASN1_DN` 9: an X.501 name in DER.
    DistinguishedName(Vec<u8>),
    /// `ID_KEY_ID` 11: octets of the two's own.
    KeyId(Vec<u8>),
}

impl Identity {
    /// The addresses `net`: one of them alone is an address.
    pub fn of_net(net: IpNet) -> Self {
        match net.prefix_len() == net.max_prefix_len() {
            true => Identity::Address(net.addr()),
            false => Identity::Subnet(net.trunc()),
        }
    }

    /// The addresses that it stands for.
    pub fn to_net(&self) -> Option<IpNet> {
        match self {
            Identity::Address(address) => Some(IpNet::from(*address)),
            Identity::Subnet(net) => Some(*net),
            _ => None,
        }
    }

    /// Its type.
    pub fn kind(&self) -> u8 {
        match self {
            Identity::Address(IpAddr::V4(_)) => 1,
            Identity::Name(_) => 2,
            Identity::User(_) => 3,
            Identity::Subnet(IpNet::V4(_)) => 4,
            Identity::Address(IpAddr::V6(_)) => 5,
            Identity::Subnet(IpNet::V6(_)) => 6,
            Identity::DistinguishedName(_) => 9,
            Identity::KeyId(_) => 11,
        }
    }

    /// Its octets.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Identity::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Identity::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Identity::Subnet(IpNet::V4(net)) => [net.network().octets(), net.netmask().octets()].concat(),
            Identity::Subnet(IpNet::V6(net)) => [net.network().octets(), net.netmask().octets()].concat(),
            Identity::Name(name) | Identity::User(name) => name.as_bytes().to_vec(),
            Identity::DistinguishedName(octets) | Identity::KeyId(octets) => octets.clone(),
        }
    }

    /// From its type and its octets.
    ///
    /// # Errors
    /// A type that is not taken, octets that are not of that type.
    pub fn from_parts(kind: u8, data: &[u8]) -> Result<Self, Malformed> {
        let bad = Malformed::Field { field: "Identification Data of type", value: u32::from(kind) };
        let mut reader = Reader::new(data);
        let identity = match kind {
            1 => Identity::Address(Ipv4Addr::from(reader.array::<4>()?).into()),
            5 => Identity::Address(Ipv6Addr::from(reader.array::<16>()?).into()),
            4 => {
                let (address, mask) = (Ipv4Addr::from(reader.array::<4>()?), Ipv4Addr::from(reader.array::<4>()?));
                let net = Ipv4Net::with_netmask(address, mask).map_err(|_| bad)?;
                Identity::Subnet(IpNet::V4(net.trunc()))
            }
            6 => {
                let (address, mask) = (Ipv6Addr::from(reader.array::<16>()?), Ipv6Addr::from(reader.array::<16>()?));
                let net = Ipv6Net::with_netmask(address, mask).map_err(|_| bad)?;
                Identity::Subnet(IpNet::V6(net.trunc()))
            }
            2 | 3 => {
                let name = std::str::from_utf8(bounded(reader.rest())?).map_err(|_| bad)?;
                // It comes into logs.
                if !name.bytes().all(|octet| octet.is_ascii_graphic()) {
                    return Err(bad);
                }
                if kind == 2 { Identity::Name(name.to_owned()) } else { Identity::User(name.to_owned()) }
            }
            9 => Identity::DistinguishedName(bounded(reader.rest())?.to_vec()),
            11 => Identity::KeyId(bounded(reader.rest())?.to_vec()),
            _ => return Err(Malformed::Field { field: "ID Type", value: u32::from(kind) }),
        };
        reader.end()?;
        Ok(identity)
    }

    /// The body of an ID payload of phase 1, for any protocol and port.
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = vec![self.kind(), 0, 0, 0];
        body.extend(self.data());
        body
    }

    /// Reads the body of an ID payload of phase 1. Protocol and port there "MUST be set to zero or to UDP port 500"
    /// (RFC 2407 4.6.2); the port that the RFC fixes is a setting here, and a translator of addresses changes it, so that
    /// any goes with UDP. Nothing depends on it.
    ///
    /// # Errors
    /// Another protocol, a port of none; and as [`from_parts`](Self::from_parts).
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.u8()?;
        let (protocol, port) = (reader.u8()?, reader.u16()?);
        match protocol {
            0 => expect("Port", port, 0u16)?,
            _ => expect("Protocol ID", protocol, UDP)?,
        }
        Self::from_parts(kind, reader.rest())
    }
}

fn bounded(octets: &[u8]) -> Result<&[u8], Malformed> {
    match octets.len() {
        0 => Err(Malformed::Truncated),
        1..=MOST_OCTETS => Ok(octets),
        _ => Err(Malformed::TooMany),
    }
}
