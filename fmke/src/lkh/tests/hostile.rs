//! Octets that no server sends, and what comes at the wrong time.

use proptest::prelude::*;

use super::*;

/// A group whose next update moves members.
fn halving() -> (Group, Update) {
    let mut group = Group::new(16);
    group.exclude(&(0..11).map(Place).collect::<Vec<_>>(), 1_400);
    let (_, update) = group.tree.stage_exclusion(&[Place(15)], &mut group.rng).unwrap();
    assert_eq!(update.moves.len(), 4);
    (group, update)
}

/// What `decode` says when the octets at `at` are these instead.
fn with<T>(
    decode: impl Fn(&[u8]) -> Result<T, ParseError>,
    bytes: &[u8],
    at: usize,
    octets: &[u8],
) -> Option<ParseError> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + octets.len()].copy_from_slice(octets);
    decode(&bytes).err()
}

/// Nothing shorter and nothing longer is read.
fn only_whole<T>(decode: impl Fn(&[u8]) -> Result<T, ParseError>, bytes: &[u8]) {
    assert!(decode(bytes).is_ok());
    for length in 0..bytes.len() {
        assert_eq!(decode(&bytes[..length]).err(), Some(ParseError::Short), "{length}");
    }
    assert_eq!(decode(&[bytes, &[0]].concat()).err(), Some(ParseError::Long));
}

#[test]
fn an_update_field_by_field() {
    use ParseError::Field;
    let (_, update) = halving();
    let bytes = update.encode();
    // Version 3, depth 3, root 7, 4 moves; places 0 to 3 are taken anew, so all is renewed from there.
    assert_eq!(bytes[..12], [1, 0, 5, 3, 0, 7, 0, 4, 0, 0, 0, 3]);
    assert_eq!(bytes[12..20], [0, 11, 0, 0, 0, 12, 0, 1]);
    assert_eq!(Update::decode(&bytes), Ok(update));
    only_whole(Update::decode, &bytes);
    let with = |at, octets: &[u8]| with(Update::decode, &bytes, at, octets);
    assert_eq!(with(0, &[2]), Some(Field("the LKH version")));
    assert_eq!(with(1, &[0, 4]), Some(ParseError::Long));
    assert_eq!(with(1, &[0xff, 0xff]), Some(ParseError::Short));
    assert_eq!(with(3, &[0]), Some(Field("the depth")));
    assert_eq!(with(3, &[16]), Some(Field("the depth")));
    assert_eq!(with(3, &[2]), Some(Field("the LKH ID of the scope")));
    assert_eq!(with(4, &[0, 15]), Some(Field("the LKH ID of the scope")));
    assert_eq!(with(4, &[0, 11]), Some(Field("a move")), "to beside the scope");
    assert_eq!(with(8, &[0; 4]), Some(Field("the key handle")));
    assert_eq!(with(12, &[0, 7]), Some(Field("a move")), "from the half that stays");
    assert_eq!(with(12, &[0, 13]), Some(Field("a move")), "out of order");
    assert_eq!(with(12, &[0x80, 0]), Some(Field("a move")), "from beyond the largest tree");
    assert_eq!(with(14, &[0, 1]), Some(Field("a move")), "to one place twice");
    assert_eq!(with(26, &[0, 8]), Some(Field("a move")), "to the half that goes");
    assert_eq!(bytes[28..30], [0, 0], "the first key is under place 0");
    assert_eq!(with(28, &[0, 2]), Some(Field("an LKH ID")), "twice");
    assert_eq!(with(28, &[0, 9]), Some(Field("an LKH ID")), "out of order");
    assert_eq!(with(28 + 42 * 4, &[0, 7]), Some(Field("an LKH ID")), "the root");
    assert_eq!(with(28 + 42 * 4, &[0, 15]), Some(Field("an LKH ID")), "beyond the tree");
    assert_eq!(with(28 + 42 * 4, &[0xff, 0xff]), Some(Field("an LKH ID")), "beyond every tree");
}

#[test]
fn a_part_has_nothing_for_others() {
    let mut group = Group::new(8);
    let (_, update) = group.tree.stage_exclusion(&[Place(0), Place(7)], &mut group.rng).unwrap();
    let [left, right] = &update.parts(12 + 42 * 4)[..] else { panic!("two parts") };
    assert_eq!((left.scope, right.scope), (NodeId(3), NodeId(11)));
    only_whole(Update::decode, &left.encode());
    let foreign = Update { items: [&left.items[..], &right.items[1..2]].concat(), ..left.clone() };
    assert_eq!(Update::decode(&foreign.encode()), Err(ParseError::Field("an LKH ID")));
}

#[test]
fn a_download_field_by_field() {
    use ParseError::Field;
    let mut group = Group::new(5);
    group.exclude(&[Place(0)], 1_400);
    let bytes = group.tree.download(Place(2)).unwrap().encode();
    assert_eq!(bytes[..4], [1, 0, 4, 0]);
    assert_eq!(bytes[4..20], [0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    only_whole(Download::decode, &bytes);
    let with = |at, octets: &[u8]| with(Download::decode, &bytes, at, octets);
    assert_eq!(with(0, &[0]), Some(Field("the LKH version")));
    assert_eq!(with(3, &[1]), Some(Field("RESERVED")));
    assert_eq!(with(1, &[0, 1]), Some(Field("the number of keys")));
    assert_eq!(with(1, &[0, 17]), Some(Field("the number of keys")));
    assert_eq!(with(1, &[0, 3]), Some(ParseError::Long));
    assert_eq!(with(4, &[0, 5]), Some(Field("the leaf")));
    assert_eq!(with(4, &[0, 16]), Some(Field("the leaf")));
    assert_eq!(with(4, &[0, 2]), Some(Field("an LKH ID")), "a leaf with another's path");
    assert_eq!(with(6, &[2]), Some(Field("a key type")));
    assert_eq!(with(7, &[1]), Some(Field("a key type")));
    assert_eq!(with(11, &[1]), Some(Field("a key's date")));
    assert_eq!(with(15, &[1]), Some(Field("a key's date")));
    assert_eq!(with(16, &[0; 4]), Some(Field("a key handle")));
    assert_eq!(with(16, &[0, 0, 0, 9]), Some(Field("a key handle")), "newer than the root");
    assert_eq!(with(52, &[0, 1]), Some(Field("an LKH ID")), "another's parent");
}

#[test]
fn an_announcement_field_by_field() {
    use ParseError::Field;
    let bytes = Group::new(5).join(2).encode();
    assert_eq!(bytes, [1, 0, 2, 0, 0, 0, 0, 2, 0, 5, 0, 6]);
    only_whole(Joins::decode, &bytes);
    let with = |at, octets: &[u8]| with(Joins::decode, &bytes, at, octets);
    assert_eq!(with(0, &[0]), Some(Field("the LKH version")));
    assert_eq!(with(1, &[0, 0]), Some(Field("the number of newcomers")));
    assert_eq!(with(1, &[2, 1]), Some(Field("the number of newcomers")));
    assert_eq!(with(3, &[1]), Some(Field("RESERVED")));
    assert_eq!(with(4, &[0; 4]), Some(Field("the key handle")));
    assert_eq!(with(8, &[0, 6]), Some(Field("a place")), "twice");
    assert_eq!(with(8, &[0, 7]), Some(Field("a place")), "out of order");
    assert_eq!(with(10, &[0x80, 0]), Some(Field("a place")), "beyond the largest tree");
}

#[test]
fn what_comes_at_the_wrong_time_changes_nothing() {
    let mut group = Group::new(6);
    let member = || MemberPath::new(group.tree.download(Place(1)).unwrap());
    let (mut late, mut early) = (member(), member());
    let refused = |member: &mut MemberPath, update: &Update, error| {
        let held: Vec<_> = member.nodes().iter().map(|node| *node.to_bytes()).collect();
        assert_eq!(member.apply(update), Err(error));
        assert!(held.into_iter().eq(member.nodes().iter().map(|node| *node.to_bytes())));
    };
    let first = group.exclude(&[Place(5)], 1_400);
    let second = group.exclude(&[], 1_400);
    refused(&mut late, &second, PathError::Missed { held: 1, got: 3 });
    late.apply(&first).unwrap();
    refused(&mut late, &first, PathError::Known { held: 2, got: 2 });
    late.apply(&second).unwrap();
    refused(&mut late, &first, PathError::Known { held: 3, got: 2 });
    // For the same version: of a deeper tree, for others, without our key, with another's.
    refused(&mut early, &Update { depth: 4, ..first.clone() }, PathError::Contradiction);
    refused(&mut early, &Update { scope: NodeId(5), ..first.clone() }, PathError::Elsewhere(NodeId(5)));
    refused(&mut early, &Update { items: Vec::new(), ..first.clone() }, PathError::Excluded);
    let mut swapped = first.clone();
    assert_eq!(swapped.items.iter().map(|item| item.under).collect::<Vec<_>>(), [NodeId(3), NodeId(8)]);
    swapped.items[0].wrapped = swapped.items[1].wrapped;
    refused(&mut early, &swapped, PathError::Sealed(NodeId(3)));
    let newcomer_here = Joins { version: 2, places: vec![Place(1)] };
    assert_eq!(early.apply_joins(&newcomer_here), Err(PathError::Contradiction));
    assert_eq!(
        early.apply_joins(&Joins { version: 1, ..newcomer_here.clone() }),
        Err(PathError::Known { held: 1, got: 1 })
    );
    assert_eq!(early.apply_joins(&Joins { version: 3, ..newcomer_here }), Err(PathError::Missed { held: 1, got: 3 }));
    early.apply(&first).unwrap();
    assert_eq!(early.version(), 2);
}

#[test]
fn after_the_last_version_nothing_is_next() {
    let group = Group::new(2);
    let mut download = group.tree.download(Place(0)).unwrap();
    download.nodes[1].version = u32::MAX;
    let mut member = MemberPath::new(download);
    let joins = Joins { version: 1, places: vec![Place(1)] };
    assert_eq!(member.apply_joins(&joins), Err(PathError::Known { held: u32::MAX, got: 1 }));
}

proptest! {
    #[test]
    fn whatever_is_read_is_what_is_written(bytes in prop::collection::vec(any::<u8>(), 0..200), head in 0..4_usize) {
        let mut bytes = bytes;
        // Some begin as they should.
        let heads: [&[u8]; 4] = [&[], &[1, 0, 1, 1, 0, 1, 0, 0], &[1, 0, 2, 0], &[1, 0, 2, 0, 0, 0, 0, 2]];
        bytes.splice(..heads[head].len().min(bytes.len()), heads[head].iter().copied());
        if let Ok(update) = Update::decode(&bytes) {
            prop_assert_eq!(&update.encode(), &bytes);
        }
        if let Ok(joins) = Joins::decode(&bytes) {
            prop_assert_eq!(&joins.encode(), &bytes);
        }
        if let Ok(download) = Download::decode(&bytes) {
            prop_assert_eq!(&*download.encode(), &bytes);
        }
    }

    /// A damaged update is refused, or does to no member what it should not: its keys stay, or it says that all is well
    /// because what it needs is whole.
    #[test]
    fn a_damaged_update_brings_no_wrong_key(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut group = Group::new(12);
        let (change, update) = group.tree.stage_exclusion(&[Place(3), Place(8)], &mut group.rng).unwrap();
        group.tree.commit(change).unwrap();
        let mut bytes = update.encode();
        let at = at.index(bytes.len() - 12) + 12;
        bytes[at] ^= 1 << bit;
        if let Ok(update) = Update::decode(&bytes) {
            for member in &mut group.members {
                let held = member.root().to_bytes();
                // A key's number may be lost, and then the wrong key derived; the message's signature is against that.
                let renamed = (at - 12) % 42 < 2;
                match member.apply(&update) {
                    Ok(()) => prop_assert!(renamed || member.root().to_bytes() == group.tree.root().unwrap().to_bytes()),
                    Err(_) => prop_assert_eq!(member.root().to_bytes(), held),
                }
            }
        }
    }
}
