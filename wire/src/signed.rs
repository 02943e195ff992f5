//! Values that travel with a signature of their own, because others than their author pass them on.

use std::fmt;
use std::marker::PhantomData;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use crate::codec::{self, WireError};
use crate::{Bytes, Signature};

/// What can stand in a [`Signed`].
pub trait Signable: Encode + Decode<()> {
    /// Stands before the signed bytes, so that a signature means nothing elsewhere.
    const LABEL: &'static [u8];
}

/// A `T` as its author encoded it, and the author's signature. Nobody's word yet: `certs` turns it into a
/// `Verified<T>`. The bytes received are what is checked and passed on, never an encoding of our own.
pub struct Signed<T> {
    bytes: Bytes<{ codec::MAX_MESSAGE }>,
    signature: Signature,
    what: PhantomData<fn() -> T>,
}

impl<T: Signable> Signed<T> {
    /// Encodes `value`; `sign` gets the label and the bytes.
    pub fn new(value: &T, sign: impl FnOnce(&[u8], &[u8]) -> Signature) -> Result<Self, WireError> {
        let bytes = codec::encode(value)?;
        let signature = sign(T::LABEL, &bytes);
        // encode() refuses what is larger than MAX_MESSAGE.
        let bytes = Bytes::new(bytes).ok_or(WireError::Length(codec::MAX_MESSAGE))?;
        Ok(Self { bytes, signature, what: PhantomData })
    }

    /// What it says, whoever may have said it.
    pub fn decode(&self) -> Result<T, WireError> {
        codec::decode(&self.bytes)
    }

    /// The bytes that the signature is over, without [`Signable::LABEL`].
    pub fn signed_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The signature that came with it.
    pub fn signature(&self) -> Signature {
        self.signature
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), signature: self.signature, what: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} bytes)", self.bytes.len())
    }
}

impl<T> Encode for Signed<T> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.bytes.encode(encoder)?;
        self.signature.encode(encoder)
    }
}

impl<C, T> Decode<C> for Signed<T> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self { bytes: Bytes::decode(decoder)?, signature: Signature::decode(decoder)?, what: PhantomData })
    }
}

impl<'de, C, T> BorrowDecode<'de, C> for Signed<T> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}
