//! A server and its members, all of whose changes travel as octets.

mod edges;
mod history;
mod hostile;
mod knowledge;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

/// A key server, its members, and those whom it has excluded.
struct Group {
    tree: KeyTree,
    members: Vec<MemberPath>,
    gone: Vec<MemberPath>,
    rng: ChaCha20Rng,
}

impl Group {
    fn new(members: usize) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(5);
        let mut group = Self { tree: KeyTree::new(), members: Vec::new(), gone: Vec::new(), rng };
        let mut left = members;
        while left > 0 {
            group.join(left.min(MAX_JOINS));
            left -= left.min(MAX_JOINS);
        }
        group
    }

    fn join(&mut self, newcomers: usize) -> Joins {
        let (change, joins) = self.tree.stage_joins(newcomers, &mut self.rng).unwrap();
        self.tree.commit(change).unwrap();
        let joins = Joins::decode(&joins.encode()).unwrap();
        for member in &mut self.members {
            member.apply_joins(&joins).unwrap();
        }
        for place in joins.places() {
            let download = self.tree.download(*place).unwrap().encode();
            self.members.push(MemberPath::new(Download::decode(&download).unwrap()));
        }
        joins
    }

    /// Excludes them by parts of at most so many octets. Each member finds one part that is for it, each excluded none.
    fn exclude(&mut self, places: &[Place], octets: usize) -> Update {
        let (change, update) = self.tree.stage_exclusion(places, &mut self.rng).unwrap();
        self.tree.commit(change).unwrap();
        let one_member = 12 + 4 + 42 * (usize::from(self.tree.depth()) + 1);
        let parts = update.clone().parts(octets).into_iter().map(|part| {
            let bytes = part.encode();
            assert!(bytes.len() <= octets.max(one_member), "{} of {octets}", bytes.len());
            Update::decode(&bytes).unwrap()
        });
        let parts: Vec<_> = parts.collect();
        let (gone, stay) = self.members.drain(..).partition(|member| places.contains(&member.place()));
        self.members = stay;
        for member in &mut self.members {
            let results: Vec<_> = parts.iter().map(|part| member.apply(part)).collect();
            let taken = results.iter().filter(|result| result.is_ok()).count();
            let fits = |result: &_| matches!(result, Ok(()) | Err(PathError::Elsewhere(_) | PathError::Known { .. }));
            assert!(taken == 1 && results.iter().all(fits), "{results:?}");
        }
        self.gone.extend(gone);
        for member in &mut self.gone {
            let held = (member.version(), *member.root().key().bytes());
            assert!(parts.iter().all(|part| member.apply(part).is_err()));
            assert_eq!((member.version(), *member.root().key().bytes()), held);
        }
        update
    }

    /// All who are in compute what the server has, and the tree is no deeper than promised.
    fn check(&self) {
        assert_eq!(self.tree.members(), self.members.len());
        for member in &self.members {
            let own = (0..).zip(member.nodes()).map(|(level, node)| (level, node.version(), *node.key().bytes()));
            let download = self.tree.download(member.place()).unwrap();
            let servers = (0..).zip(&download.nodes).map(|(level, node)| (level, node.version(), *node.key().bytes()));
            assert!(own.eq(servers), "{:?}", member.place());
        }
        let log = self.members.len().max(1).next_power_of_two().ilog2();
        assert!(u32::from(self.tree.depth()) <= log + 1, "{} for {}", self.tree.depth(), self.members.len());
        assert_eq!(self.tree.root().is_some(), !self.members.is_empty());
    }

    /// Starts the server again from what a store holds.
    fn restart(&mut self) {
        let stored: Vec<_> = self.tree.nodes().map(|(id, node)| (id, *node.to_bytes())).collect();
        let nodes = stored.iter().map(|(id, bytes)| (*id, Node::from_bytes(bytes)));
        let tree = KeyTree::from_nodes(self.tree.version(), self.tree.depth(), nodes).unwrap();
        assert!(stored.into_iter().eq(tree.nodes().map(|(id, node)| (id, *node.to_bytes()))));
        assert_eq!(tree.members(), self.tree.members());
        self.tree = tree;
    }

    fn places(&self) -> Vec<Place> {
        self.members.iter().map(MemberPath::place).collect()
    }
}
