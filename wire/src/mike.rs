//! Bodies of the key agreement (MIKE).
//!
//! Commits, snapshots and hand-overs may be larger than a datagram; they travel as [`Chunk`]s.

use bincode::{Decode, Encode};

use crate::{Bytes, GroupTag, Hash, Instance, List, MemberId, Nonce, Signable, Signature, Signed};

/// Members of a group.
pub const MAX_MEMBERS: usize = 1024;
/// Slots of a tree: at least twice the members, so that a merge of two full groups still fits.
pub const MAX_SLOTS: usize = 2048;
/// Levels above the leaves.
pub const MAX_DEPTH: usize = 11;
/// Hand-overs that one commit takes in.
pub const MAX_HANDOVERS: usize = 64;
/// Ciphertexts in one commit or snapshot.
pub const MAX_CIPHERTEXTS: usize = 4096;
/// Live SPI tags reported in a hand-over.
pub const MAX_TAGS: usize = 16;
/// Bytes of a message in one chunk: what a 1,280-byte link carries whole, with IPv6 and UDP headers, voucher and envelope.
pub const CHUNK_LEN: usize = 992;
/// Chunks asked for in one request.
pub const MAX_MISSING: usize = 256;
/// Fills in one datagram.
pub const MAX_FILLS: usize = 8;
/// Parents asked for in one datagram.
pub const MAX_WANTED: usize = 64;

/// A member's leaf, signed by its certificate key: nobody can put a key in another's name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Leaf {
    /// Format and mode: 1 is agreement.
    pub mode: u8,
    /// The group.
    pub group: GroupTag,
    /// Whose leaf.
    pub member: MemberId,
    /// Its startup stamp.
    pub startup: u64,
    /// Rises with every new key of this start.
    pub generation: u64,
    /// X25519 public key.
    pub public: [u8; 32],
}

impl Signable for Leaf {
    const LABEL: &'static [u8] = b"muster 1 leaf";
}

/// How a parent got its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum ParentKind {
    /// By Diffie-Hellman of both children.
    Agreed,
    /// From its only child with members below.
    Lifted,
    /// From one child, encrypted to the members below the other.
    Sealed,
}

/// Which child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Side {
    /// The lower slots.
    Left,
    /// The higher slots.
    Right,
}

/// A keyed parent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Parent {
    /// How it was keyed.
    pub kind: ParentKind,
    /// In which epoch.
    pub epoch: u64,
    /// From which child (of an agreed parent: the author's).
    pub source: Side,
    /// X25519 public key.
    pub public: [u8; 32],
    /// The slot of the author, which is below.
    pub author: u32,
    /// The author's signature; see the SPEC, "Parent".
    pub signature: Signature,
}

/// A sealed parent's secret for the members below one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ciphertext {
    /// The sealed parent.
    pub node: u32,
    /// The node whose key opens it.
    pub recipient: u32,
    /// 32 bytes of secret and a 16-byte tag.
    pub sealed: [u8; 48],
}

/// A blank parent keyed after the commit by a member below it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fill {
    /// The node.
    pub node: u32,
    /// Its record.
    pub parent: Parent,
}

/// What a transaction manager signs: stands alone, names everything else by hash.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EpochHeader {
    /// Cipher suite; 1 = X25519, Ed25519, SHA-256, AES-256-GCM.
    pub suite: u8,
    /// The group.
    pub group: GroupTag,
    /// The reign; its transaction manager is the signer.
    pub instance: Instance,
    /// Rises by at least one with every commit.
    pub epoch: u64,
    /// Hash of the header before.
    pub parent: Hash,
    /// Hash over group name, instance, epoch, members and tree.
    pub transcript: Hash,
    /// Proves that its reader computed the same key.
    pub confirmation: Hash,
    /// 1 to 4095: upper 12 bits of the SPIs of this epoch's group SAs.
    pub spi_tag: u16,
    /// Hash of the hand-overs that the commit takes in.
    pub handovers: Hash,
    /// Hash of the rest of the commit.
    pub body: Hash,
}

impl Signable for EpochHeader {
    const LABEL: &'static [u8] = b"muster 1 header";
}

/// A transaction: everything that turns one epoch into the next.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Commit {
    /// Signed by the transaction manager.
    pub header: Signed<EpochHeader>,
    /// The groups that join, each signed by its own transaction manager, in the order in which their leaves go in.
    pub handovers: List<Signed<Handover>, MAX_HANDOVERS>,
    /// The rest.
    pub body: CommitBody,
}

/// What changes in the tree, in the order of application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct CommitBody {
    /// Fills since the last commit, children before parents.
    pub fills: List<Fill, MAX_SLOTS>,
    /// Slots that become empty, rising.
    pub removed: List<u32, MAX_MEMBERS>,
    /// Members' new leaves.
    pub refreshed: List<Signed<Leaf>, MAX_MEMBERS>,
    /// The transaction manager's own new leaf.
    pub leaf: Option<Signed<Leaf>>,
    /// The parents from there to the root.
    pub path: List<Parent, MAX_DEPTH>,
    /// X25519 public key for the ciphertexts; zero without any.
    pub ephemeral: [u8; 32],
    /// The secrets of the path's sealed parents.
    pub ciphertexts: List<Ciphertext, MAX_CIPHERTEXTS>,
}

/// The secrets of a sealed parent, as a snapshot carries them on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedSecrets {
    /// The parent.
    pub node: u32,
    /// The X25519 key of the commit that sealed it.
    pub ephemeral: [u8; 32],
    /// One for each node in the resolution of the blank child.
    pub ciphertexts: List<Ciphertext, MAX_MEMBERS>,
}

/// The whole state of an epoch but the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// As committed.
    pub header: Signed<EpochHeader>,
    /// The hand-overs that the epoch's commit took in.
    pub handovers: List<Signed<Handover>, MAX_HANDOVERS>,
    /// Slots in the tree, a power of two.
    pub slots: u32,
    /// Occupied slots, rising.
    pub leaves: List<(u32, Signed<Leaf>), MAX_MEMBERS>,
    /// Keyed parents (by node), rising.
    pub parents: List<(u32, Parent), MAX_SLOTS>,
    /// For the sealed ones among them, in the same order.
    pub sealed: List<SealedSecrets, MAX_SLOTS>,
    /// Fills since.
    pub fills: List<Fill, MAX_SLOTS>,
}

/// "My members join you."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Handover {
    /// The group.
    pub group: GroupTag,
    /// Which reign ends.
    pub from: Instance,
    /// Its epoch.
    pub epoch: u64,
    /// Its header.
    pub header: Hash,
    /// The reign that is joined.
    pub target: Instance,
    /// SPI tags in use.
    pub tags: List<u16, MAX_TAGS>,
    /// All members.
    pub leaves: List<Signed<Leaf>, MAX_MEMBERS>,
}

impl Signable for Handover {
    const LABEL: &'static [u8] = b"muster 1 hand-over";
}

/// What a chunked message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum MessageKind {
    /// [`Commit`]
    Commit,
    /// [`Snapshot`]
    Snapshot,
    /// [`Signed<Handover>`]
    Handover,
}

/// A part of a message; every part but the last is [`CHUNK_LEN`] bytes long.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Chunk {
    /// Hash of the whole message.
    pub message: Hash,
    /// What the message is.
    pub kind: MessageKind,
    /// Hash of the header that it belongs to, so that what is known already costs nothing.
    pub header: Hash,
    /// Bytes of the whole.
    pub length: u32,
    /// Which part, from 0.
    pub index: u16,
    /// The part.
    pub data: Bytes<CHUNK_LEN>,
}

/// "Send me your snapshot", or what I miss of a message of yours.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// From a recent hello of the device asked.
    pub hello_nonce: Nonce,
    /// The message of which parts are missing; [`Hash::NONE`] asks for the newest snapshot, whole.
    pub message: Hash,
    /// The missing parts, rising.
    pub missing: List<u16, MAX_MISSING>,
}

/// The target of a hand-over will not take it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandoverRefused {
    /// Hash of the signed hand-over.
    pub handover: Hash,
}

/// "These blank parents are keyed now": its author's own fills.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fills {
    /// The epoch's header.
    pub header: Hash,
    /// Children before parents.
    pub fills: List<Fill, MAX_FILLS>,
}

/// "These parents could be keyed, and nobody has told me the keys."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FillsWanted {
    /// The epoch's header.
    pub header: Hash,
    /// Nodes, rising.
    pub nodes: List<u32, MAX_WANTED>,
}

/// "I am below this parent, and its fill has another key than I compute."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Objection {
    /// The epoch's header.
    pub header: Hash,
    /// The node.
    pub node: u32,
    /// The public key objected to.
    pub public: [u8; 32],
}

/// "Put this fresh leaf of mine into the tree."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Refresh {
    /// The reign.
    pub instance: Instance,
    /// It cannot wait: the sender cannot compute the key without.
    pub urgent: bool,
    /// The leaf.
    pub leaf: Signed<Leaf>,
}

/// "This transaction manager has signed two headers for one epoch."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Exposure {
    /// One.
    pub first: Signed<EpochHeader>,
    /// The other.
    pub second: Signed<EpochHeader>,
}

macro_rules! names_an_epoch {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
        pub struct $name {
            /// The reign.
            pub instance: Instance,
            /// The epoch.
            pub epoch: u64,
            /// The epoch's header.
            pub header: Hash,
        }
    )*};
}
names_an_epoch! {
    /// "I hold this epoch's key and receive under it."
    Ack,
    /// "All who matter have acknowledged: send under this epoch's key."
    Activate,
    /// "I leave; exclude me."
    Leave,
    /// "Make a new key."
    RekeyRequest
}
