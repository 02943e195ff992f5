//! The same commits as in the model (`tests/model/`), another program in another language, give the same trees: slots,
//! who is where, each parent's kind, its source side, the recipients of its ciphertexts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;

use muster_certs::{Author, SigningKey};
use muster_wire::mike::{CommitBody, Fill, Parent, ParentKind, Side};
use muster_wire::{GroupTag, List, MemberId, Signature};

use crate::commit::{Changes, key_path, put_path};
use crate::own::OwnLeaves;
use crate::roster::Roster;
use crate::secret::{Secret, SecretSource, agreed, lifted};
use crate::tree::{LeafNode, Node, ParentIndex, PathSecrets, Slot, Tree, child};

/// Of the model's world.
const DEVICES: usize = 20;

#[test]
fn known_histories_give_the_models_trees() {
    let commits = replay(include_str!("../../tests/model/histories.txt"));
    assert!(commits >= 250, "{commits}");
}

#[test]
fn fresh_histories_give_the_models_trees() {
    // Other histories: MUSTER_ORACLE_SEED=4711.
    let seed: u64 = std::env::var("MUSTER_ORACLE_SEED").map_or(7, |seed| seed.parse().unwrap());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/oracle.py");
    let seeds = [seed.to_string(), (seed + 6).to_string(), "30".into()];
    println!("python3 {} {}", model.display(), seeds.join(" "));
    let output = match Command::new("python3").arg("-B").arg(&model).args(&seeds).output() {
        // The harness captures the print macros, not the stream; if that is closed, nobody is there to read.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let _ = std::io::stderr().write_all(b"SKIP the model, live: no python3 here\n");
            return;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(replay(std::str::from_utf8(&output.stdout).unwrap()), 6 * 30);
}

#[test]
#[should_panic(expected = "the model has another tree")]
fn another_tree_is_noticed() {
    let text = include_str!("../../tests/model/histories.txt").replace("agreed:L", "agreed:R");
    replay(&text);
}

/// Does all commits of a text and compares; how many there were.
fn replay(text: &str) -> usize {
    let mut world = World::new();
    let mut commits = 0;
    for line in text.lines() {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        match what {
            "seed" => world = World::new(),
            "commit" => {
                world.commit(&Fields::of(rest));
                commits += 1;
            }
            "tree" => assert_eq!(world.show(), line, "the model has another tree"),
            _ => panic!("{line}"),
        }
    }
    commits
}

/// `name=a,b:c` …
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.split(' ').map(|field| field.split_once('=').unwrap()).collect())
    }

    fn numbers(&self, name: &str) -> Vec<usize> {
        self.items(name).map(|item| item.parse().unwrap()).collect()
    }

    fn pairs(&self, name: &str) -> Vec<(u32, usize)> {
        let pair = |item: &str| item.split_once(':').map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        self.items(name).map(|item| pair(item).unwrap()).collect()
    }

    fn items(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.get(name).into_iter().flat_map(|items| items.split(','))
    }
}

struct Device {
    author: Author,
    own: OwnLeaves,
    secret: Option<Secret>,
}

struct World {
    source: SecretSource,
    roster: Roster,
    devices: Vec<Device>,
    tree: Tree,
    epoch: u64,
}

fn id(device: usize) -> MemberId {
    MemberId([device as u8 + 1; 32])
}

impl World {
    fn new() -> World {
        let group = GroupTag([3; 16]);
        let keys: Vec<SigningKey> = (0..DEVICES).map(|n| SigningKey::from_seed(&[n as u8 + 1; 32])).collect();
        let mut roster = Roster::new(group, id(0), keys[0].public());
        for (device, key) in keys.iter().enumerate().skip(1) {
            roster.up(id(device), key.public(), 1, super::address(device));
        }
        let device =
            |(n, key)| Device { author: Author::new(key, group, id(n), 1), own: OwnLeaves::default(), secret: None };
        let devices = keys.into_iter().enumerate().map(device).collect();
        let source = SecretSource::new(Secret::from_bytes([1; 32]));
        let mut world = World { source, roster, devices, tree: Tree::new(group, 1).unwrap(), epoch: 0 };
        let leaf = world.fresh(0);
        world.tree.set_leaf(Slot(0), leaf);
        world
    }

    fn fresh(&mut self, device: usize) -> LeafNode {
        let Device { author, own, secret } = &mut self.devices[device];
        let (leaf, new) = own.fresh(author, &mut self.source).unwrap();
        *secret = Some(new);
        leaf
    }

    fn slot(&self, device: usize) -> Slot {
        self.tree.slot_of(&id(device)).unwrap()
    }

    fn commit(&mut self, fields: &Fields<'_>) {
        let tm = fields.numbers("tm")[0];
        let fills = self.fills(&fields.pairs("fills"));
        self.epoch += 1;
        let mut removed: Vec<Slot> = fields.numbers("removed").into_iter().map(|device| self.slot(device)).collect();
        removed.sort();
        let refreshed = fields.numbers("refreshed").into_iter().map(|device| self.fresh(device)).collect();
        let joined = fields.numbers("joined").into_iter().map(|device| self.fresh(device)).collect();
        let leaf = self.fresh(tm);
        let changes = Changes { fills, removed, refreshed, joined, leaf };
        let (mut tree, slot) = changes.apply(&self.tree, &self.roster).unwrap();
        let Device { author, secret, .. } = &self.devices[tm];
        let secret = secret.clone().unwrap();
        let keyed = key_path(&mut tree, slot, &secret, self.epoch, author.key(), &mut self.source).unwrap();

        // What a reader makes of it is what is compared.
        let body = CommitBody {
            path: keyed.path,
            ephemeral: keyed.ephemeral,
            ciphertexts: List::new(keyed.ciphertexts).unwrap(),
            ..CommitBody::default()
        };
        let (mut read, read_slot) = changes.apply(&self.tree, &self.roster).unwrap();
        put_path(&mut read, read_slot, &body, self.epoch, &self.roster).unwrap();
        self.tree = read;
        self.agree();
    }

    /// Every member comes to the same root secret, from its leaf secret and the tree alone.
    fn agree(&self) {
        let root = Node::root(self.tree.slots());
        let roots = self.tree.members().map(|(slot, node)| {
            let device = usize::from(node.leaf.member.0[0]) - 1;
            let secret = self.devices[device].secret.as_ref().unwrap();
            let path = self.tree.path_secrets(slot, secret, &PathSecrets::default()).unwrap();
            path.get(root).unwrap().to_hash()
        });
        let roots: Vec<_> = roots.collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "members disagree");
    }

    /// What members below blank parents would have sent: (node, author), children before parents.
    fn fills(&self, wanted: &[(u32, usize)]) -> Vec<Fill> {
        let mut tree = self.tree.clone();
        let mut fills = Vec::new();
        for (node, author) in wanted {
            let slot = self.slot(*author);
            let index = ParentIndex::new(*node, tree.slots()).unwrap();
            let secret = self.devices[*author].secret.as_ref().unwrap();
            let path = tree.path_secrets(slot, secret, &PathSecrets::default()).unwrap();
            let (kind, source) = tree.kind_of(index, slot);
            let below = path.get(child(index, source)).expect("a child that is keyed");
            let secret = match kind {
                ParentKind::Agreed => {
                    let public = |node| tree.public(node).unwrap();
                    let (left, right) = (public(index.left()), public(index.right()));
                    agreed(tree.group(), index, below, source == Side::Left, left, right).unwrap()
                }
                ParentKind::Lifted => lifted(tree.group(), index, below),
                ParentKind::Sealed => panic!("the model fills {node}, which cannot be filled"),
            };
            let public = secret.public();
            let signature = Signature([0; 64]);
            let mut parent = Parent { kind, epoch: self.epoch, source, public, author: slot.0, signature };
            parent.signature = tree.sign_parent(index, &parent, self.devices[*author].author.key()).unwrap();
            let fill = Fill { node: *node, parent };
            tree.set_parent(index, std::sync::Arc::new(node_of(&fill)));
            fills.push(fill);
        }
        fills
    }

    /// As the model prints it.
    fn show(&self) -> String {
        let mut text = format!("tree slots={}", self.tree.slots());
        let leaves = self.tree.members().map(|(slot, node)| format!("{}:{}", slot.0, node.leaf.member.0[0] - 1));
        write!(text, " leaves={}", leaves.collect::<Vec<_>>().join(",")).unwrap();
        let parents = self.tree.keyed_parents().map(|(index, node)| {
            let kind = match node.record.kind {
                ParentKind::Agreed => "agreed",
                ParentKind::Lifted => "lifted",
                ParentKind::Sealed => "sealed",
            };
            let side = if node.record.source == Side::Left { "L" } else { "R" };
            let ciphertexts = node.sealed.iter().flat_map(|sealed| sealed.ciphertexts.iter());
            let recipients: Vec<_> = ciphertexts.map(|ciphertext| ciphertext.recipient.to_string()).collect();
            let recipients = if recipients.is_empty() { String::new() } else { format!(":{}", recipients.join("+")) };
            format!("{}:{kind}:{side}{recipients}", index.number())
        });
        let parents: Vec<_> = parents.collect();
        if !parents.is_empty() {
            write!(text, " parents={}", parents.join(",")).unwrap();
        }
        text
    }
}

fn node_of(fill: &Fill) -> crate::tree::ParentNode {
    crate::tree::ParentNode { record: fill.parent.clone(), sealed: None }
}
