//! The ends that SAK and SAT payloads name: type, port, length, octets (draft 7.7, 7.8.1).

use std::net::IpAddr;

use ipnet::IpNet;

use super::bytes::{Malformed, Reader};
use super::identity::Identity;

/// Appends one.
pub(super) fn write_end(body: &mut Vec<u8>, identity: &Identity, port: u16) {
    let data = identity.data();
    body.push(identity.kind());
    body.extend_from_slice(&port.to_be_bytes());
    body.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(&data);
}

/// Reads one that is any addresses. `field` is what the draft calls its type.
pub(super) fn net_end(reader: &mut Reader<'_>, field: &'static str) -> Result<(IpNet, u16), Malformed> {
    let (identity, port) = end(reader)?;
    let net = identity.to_net().ok_or(Malformed::Field { field, value: identity.kind().into() })?;
    Ok((net, port))
}

/// Reads one that is an address.
pub(super) fn address_end(reader: &mut Reader<'_>, field: &'static str) -> Result<(IpAddr, u16), Malformed> {
    match end(reader)? {
        (Identity::Address(address), port) => Ok((address, port)),
        (other, _) => Err(Malformed::Field { field, value: other.kind().into() }),
    }
}

/// Both ends are of one family; `field` is what the draft calls the second one's type.
pub(super) fn one_family(first: IpAddr, second: IpAddr, field: &'static str) -> Result<(), Malformed> {
    match first.is_ipv4() == second.is_ipv4() {
        true => Ok(()),
        false => Err(Malformed::Field { field, value: Identity::Address(second).kind().into() }),
    }
}

fn end(reader: &mut Reader<'_>) -> Result<(Identity, u16), Malformed> {
    let (kind, port) = (reader.u8()?, reader.u16()?);
    let len = usize::from(reader.u8()?);
    Ok((Identity::from_parts(kind, reader.bytes(len)?)?, port))
}
