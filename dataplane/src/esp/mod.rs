pub(crate) mod packet;
pub(crate) mod replay;
