//! Bodies to test with: any there may be, and the largest.

#![allow(dead_code, reason = "not every test file uses all of it")]

use muster_wire::idp::{CRL_PART, CrlPart, CrlRequest, MAX_CRLS, MAX_SEALED_PREFIXES};
use muster_wire::idp::{CrlNumber, GroupState, Hello, Prefix, PrefixList, Prefixes, PrefixesAck, Probe, ProbeAnswer};
use muster_wire::mike::{CHUNK_LEN, MAX_MISSING};
use muster_wire::mike::{Chunk, Ciphertext, Commit, CommitBody, EpochHeader, Fill, Handover, HandoverRefused, Leaf};
use muster_wire::mike::{MessageKind, Parent, ParentKind, Request, SealedSecrets, Side, Snapshot};
use muster_wire::{Bytes, GroupTag, Hash, Header, Instance, Kind, List, MemberId, Nonce, Signable, Signature, Signed};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn header() -> impl Strategy<Value = Header> {
    (select(Kind::ALL), group(), member(), any::<(u64, u64)>())
        .prop_map(|(kind, group, sender, (startup, sequence))| Header { kind, group, sender, startup, sequence })
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    (any::<u32>(), nonce(), any::<[u8; 32]>(), group_state(), list(crl_number()))
        .prop_map(|(interval_ms, nonce, public, group, crls)| Hello { interval_ms, nonce, public, group, crls })
}

fn group_state() -> impl Strategy<Value = GroupState> {
    (names_epoch(), any::<u32>(), any::<(bool, bool)>()).prop_map(|((instance, epoch, header), size, done)| {
        GroupState { instance, epoch, size, header, installed: done.0, active: done.1 }
    })
}

pub(crate) fn probe() -> impl Strategy<Value = Probe> {
    (nonce(), nonce(), any::<bool>()).prop_map(|(hello_nonce, nonce, want_chain)| Probe {
        hello_nonce,
        nonce,
        want_chain,
    })
}

pub(crate) fn probe_answer() -> impl Strategy<Value = ProbeAnswer> {
    (nonce(), list(bytes())).prop_map(|(nonce, chain)| ProbeAnswer { nonce, chain })
}

pub(crate) fn prefixes() -> impl Strategy<Value = Prefixes> {
    (any::<u32>(), bytes()).prop_map(|(version, sealed)| Prefixes { version, sealed })
}

pub(crate) fn crl_request() -> impl Strategy<Value = CrlRequest> {
    (nonce(), crl_number(), any::<u64>()).prop_map(|(hello_nonce, list, wanted)| CrlRequest {
        hello_nonce,
        list,
        wanted,
    })
}

pub(crate) fn crl_part() -> impl Strategy<Value = CrlPart> {
    (crl_number(), any::<u32>(), any::<u8>(), bytes()).prop_map(|(list, length, index, data)| CrlPart {
        list,
        length,
        index,
        data,
    })
}

fn crl_number() -> impl Strategy<Value = CrlNumber> {
    (hash(), any::<u64>()).prop_map(|(issuer, number)| CrlNumber { issuer, number })
}

pub(crate) fn prefix_list() -> impl Strategy<Value = PrefixList> {
    list(any::<(u8, u8, [u8; 16])>().prop_map(|(family, length, address)| Prefix { family, length, address }))
}

pub(crate) fn prefixes_ack() -> impl Strategy<Value = PrefixesAck> {
    any::<(u64, u32)>().prop_map(|(startup, version)| PrefixesAck { startup, version })
}

pub(crate) fn chunk() -> impl Strategy<Value = Chunk> {
    let kind = select(&[MessageKind::Commit, MessageKind::Snapshot, MessageKind::Handover]);
    (hash(), kind, hash(), any::<u32>(), any::<u16>(), bytes())
        .prop_map(|(message, kind, header, length, index, data)| Chunk { message, kind, header, length, index, data })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    (nonce(), hash(), list(any::<u16>())).prop_map(|(hello_nonce, message, missing)| Request {
        hello_nonce,
        message,
        missing,
    })
}

pub(crate) fn handover_refused() -> impl Strategy<Value = HandoverRefused> {
    hash().prop_map(|handover| HandoverRefused { handover })
}

pub(crate) fn names_epoch() -> impl Strategy<Value = (Instance, u64, Hash)> {
    (instance(), any::<u64>(), hash())
}

pub(crate) fn leaf() -> impl Strategy<Value = Leaf> {
    (any::<u8>(), group(), member(), any::<u64>(), any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(mode, group, member, startup, generation, public)| Leaf { mode, group, member, startup, generation, public },
    )
}

pub(crate) fn epoch_header() -> impl Strategy<Value = EpochHeader> {
    let hashes = (hash(), hash(), hash(), hash(), hash());
    (any::<u8>(), group(), instance(), any::<u64>(), hashes, any::<u16>()).prop_map(
        |(suite, group, instance, epoch, (parent, transcript, confirmation, handovers, body), spi_tag)| EpochHeader {
            suite,
            group,
            instance,
            epoch,
            parent,
            transcript,
            confirmation,
            spi_tag,
            handovers,
            body,
        },
    )
}

pub(crate) fn handover() -> impl Strategy<Value = Handover> {
    (group(), names_epoch(), instance(), list(any::<u16>()), list(signed(leaf()))).prop_map(
        |(group, (from, epoch, header), target, tags, leaves)| Handover {
            group,
            from,
            epoch,
            header,
            target,
            tags,
            leaves,
        },
    )
}

pub(crate) fn commit() -> impl Strategy<Value = Commit> {
    (signed(epoch_header()), list(signed(handover())), commit_body()).prop_map(|(header, handovers, body)| Commit {
        header,
        handovers,
        body,
    })
}

fn commit_body() -> impl Strategy<Value = CommitBody> {
    let leaves = (list(signed(leaf())), proptest::option::of(signed(leaf())));
    (list(fill()), list(any::<u32>()), leaves, list(parent()), any::<[u8; 32]>(), list(ciphertext())).prop_map(
        |(fills, removed, (refreshed, leaf), path, ephemeral, ciphertexts)| CommitBody {
            fills,
            removed,
            refreshed,
            leaf,
            path,
            ephemeral,
            ciphertexts,
        },
    )
}

pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let sealed = (any::<u32>(), any::<[u8; 32]>(), list(ciphertext()))
        .prop_map(|(node, ephemeral, ciphertexts)| SealedSecrets { node, ephemeral, ciphertexts });
    (
        signed(epoch_header()),
        list(signed(handover())),
        any::<u32>(),
        list((any::<u32>(), signed(leaf()))),
        list((any::<u32>(), parent())),
        list(sealed),
        list(fill()),
    )
        .prop_map(|(header, handovers, slots, leaves, parents, sealed, fills)| Snapshot {
            header,
            handovers,
            slots,
            leaves,
            parents,
            sealed,
            fills,
        })
}

pub(crate) fn signed<T: Signable>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Signed<T>> {
    (value, signature()).prop_map(|(value, signature)| Signed::new(&value, |_, _| signature).unwrap())
}

pub(crate) fn signature() -> impl Strategy<Value = Signature> {
    any::<([u8; 32], [u8; 32])>().prop_map(|(r, s)| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(&s);
        Signature(signature)
    })
}

pub(crate) fn fill() -> impl Strategy<Value = Fill> {
    (any::<u32>(), parent()).prop_map(|(node, parent)| Fill { node, parent })
}

fn parent() -> impl Strategy<Value = Parent> {
    let kind = select(&[ParentKind::Agreed, ParentKind::Lifted, ParentKind::Sealed]);
    (kind, any::<u64>(), select(&[Side::Left, Side::Right]), any::<[u8; 32]>(), any::<u32>(), signature()).prop_map(
        |(kind, epoch, source, public, author, signature)| Parent { kind, epoch, source, public, author, signature },
    )
}

fn ciphertext() -> impl Strategy<Value = Ciphertext> {
    any::<(u32, u32, [u8; 32], [u8; 16])>().prop_map(|(node, recipient, secret, tag)| {
        let mut sealed = [0; 48];
        sealed[..32].copy_from_slice(&secret);
        sealed[32..].copy_from_slice(&tag);
        Ciphertext { node, recipient, sealed }
    })
}

fn instance() -> impl Strategy<Value = Instance> {
    (member(), any::<u64>(), any::<u64>()).prop_map(|(tm, startup, random)| Instance { tm, startup, random })
}

fn member() -> impl Strategy<Value = MemberId> {
    any::<[u8; 32]>().prop_map(MemberId)
}

pub(crate) fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn group() -> impl Strategy<Value = GroupTag> {
    any::<[u8; 16]>().prop_map(GroupTag)
}

fn nonce() -> impl Strategy<Value = Nonce> {
    any::<[u8; 16]>().prop_map(Nonce)
}

pub(crate) fn list<T: std::fmt::Debug, const N: usize>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = List<T, N>> {
    vec(item, 0..=N.min(3)).prop_map(|items| List::new(items).unwrap())
}

fn bytes<const N: usize>() -> impl Strategy<Value = Bytes<N>> {
    vec(any::<u8>(), 0..=N.min(100)).prop_map(|bytes| Bytes::new(bytes).unwrap())
}

pub(crate) fn largest_hello() -> Hello {
    let instance = Instance { tm: MemberId([0; 32]), startup: 0, random: 0 };
    Hello {
        interval_ms: 0,
        nonce: nonce_zero(),
        public: [0; 32],
        group: GroupState { instance, epoch: 0, size: 0, header: Hash::NONE, installed: false, active: false },
        crls: List::new(vec![CrlNumber { issuer: Hash::NONE, number: 0 }; MAX_CRLS]).unwrap(),
    }
}

pub(crate) fn largest_request() -> Request {
    let missing = List::new(vec![0; MAX_MISSING]).unwrap();
    Request { hello_nonce: nonce_zero(), message: Hash::NONE, missing }
}

pub(crate) fn largest_chunk() -> Chunk {
    Chunk {
        message: Hash::NONE,
        kind: MessageKind::Commit,
        header: Hash::NONE,
        length: 0,
        index: 0,
        data: Bytes::new(vec![0; CHUNK_LEN]).unwrap(),
    }
}

pub(crate) fn largest_prefixes() -> Prefixes {
    Prefixes { version: 0, sealed: Bytes::new(vec![0; MAX_SEALED_PREFIXES]).unwrap() }
}

pub(crate) fn largest_crl_part() -> CrlPart {
    let list = CrlNumber { issuer: Hash::NONE, number: 0 };
    CrlPart { list, length: 0, index: 0, data: Bytes::new(vec![0; CRL_PART]).unwrap() }
}

pub(crate) fn nonce_zero() -> Nonce {
    Nonce([0; 16])
}
