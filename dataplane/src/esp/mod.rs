//! Formats of ESP in tunnel mode: packets (RFC 4303, RFC 4106), replay windows, what outer headers show of inner ones (RFC
//! 4301, RFC 6040), fragments, checksums.

#[cfg(not(feature = "null-cipher"))]
mod aes_gcm;
pub(crate) mod checksum;
pub(crate) mod fragment;
#[cfg(feature = "null-cipher")]
mod null_cipher;
pub(crate) mod outer;
pub(crate) mod packet;
pub(crate) mod replay;
