//! Datagrams dropped, by reason.

macro_rules! dropped {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a datagram was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Dropped { $($(#[$doc])* $name,)* }

        impl Dropped {
            /// Every reason.
            pub const ALL: &'static [Dropped] = &[$(Dropped::$name),*];

            /// For metrics: small letters and underscores.
            pub fn name(self) -> &'static str {
                match self { $(Dropped::$name => $text,)* }
            }
        }
    };
}
dropped! {
    /// Not a datagram of this protocol, or its contents are out of bounds.
    Malformed = "malformed",
    /// Another group's.
    OtherGroup = "other_group",
    /// Our own, reflected, or of an earlier start of ours.
    Own = "own",
    /// Its sequence number has been used, or its sender has said goodbye.
    Replayed = "replayed",
    /// No room to wait for its signature's check.
    QueueFull = "queue_full",
    /// Wrongly signed.
    BadSignature = "bad_signature",
    /// Only an up neighbour may send this.
    UnknownSender = "unknown_sender",
    /// An address, or all strangers, asked too much.
    RateLimited = "rate_limited",
    /// A probe that repeats none of our recent nonces.
    StaleNonce = "stale_nonce",
    /// Answers nothing that we asked.
    NotAsked = "not_asked",
    /// Its sender is refused, for now.
    Refused = "refused",
    /// Asks for a revocation list that we do not have.
    NoSuchList = "no_such_list",
    /// A revocation list that is malformed, wrongly signed, or not the one that was named.
    BadList = "bad_list",
    /// A list of prefixes that is not acceptable.
    BadPrefixes = "bad_prefixes",
}

/// Datagrams dropped since the start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; Dropped::ALL.len()]);

impl Counters {
    /// So many.
    pub fn get(&self, reason: Dropped) -> u64 {
        self.0[reason as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.iter().map(|reason| (*reason, self.get(*reason)))
    }

    pub(crate) fn count(&mut self, reason: Dropped) {
        self.0[reason as usize] += 1;
    }
}
