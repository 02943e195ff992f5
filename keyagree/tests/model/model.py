"""Executable model of the tree (SPEC.md, 2 and 3): an oracle for the Rust tree, written independently of it.

Hashes are real, Diffie-Hellman is a toy (a 521-bit prime field). `Closure` follows every derivation and ciphertext: what
could a set of devices derive from all that they ever held?

Run: python3 model.py 1 301 40 (seeds 1 to 300, 40 steps each: random commits, joins, removals, refreshes, lost fills;
checks agreement, exclusion, backward secrecy, and the bound on what a captured device reveals).
"""

import collections
import hashlib
import random
import sys

PRIME = (1 << 521) - 1
GENERATOR = 3


def digest(*parts):
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        state.update(len(data).to_bytes(4, "big") + data)
    return state.digest()


def private(secret):
    return int.from_bytes(digest("priv", secret), "big")


PUBLIC = {}
SHARED = {}


def public(secret):
    if secret not in PUBLIC:
        PUBLIC[secret] = pow(GENERATOR, private(secret), PRIME)
    return PUBLIC[secret]


def diffie_hellman(secret, other):
    if (secret, other) not in SHARED:
        SHARED[secret, other] = digest("dh", pow(other, private(secret), PRIME))
    return SHARED[secret, other]


# --- Indices (RFC 9420, appendix C): slot s is node 2s ---


def level(node):
    k = 0
    while (node >> k) & 1:
        k += 1
    return k


def left(node):
    return node ^ (1 << (level(node) - 1))


def right(node):
    return node ^ (3 << (level(node) - 1))


def parent(node):
    k = level(node)
    bit = (node >> (k + 1)) & 1
    return (node | (1 << k)) ^ (bit << (k + 1))


def sibling(node):
    above = parent(node)
    return left(above) if node > above else right(above)


def is_below(node, above):
    k = level(above)
    return above - ((1 << k) - 1) <= node <= above + ((1 << k) - 1)


# --- The tree ---


class Node:
    """A keyed node; never changed once made."""

    __slots__ = ("kind", "public", "source", "epoch", "ciphertexts", "author", "device", "generation")

    def __init__(self, kind, public_key, **fields):
        self.kind = kind
        self.public = public_key
        self.source = self.epoch = self.author = self.device = self.generation = None
        self.ciphertexts = {}
        for name, value in fields.items():
            setattr(self, name, value)


class Tree:
    """2^d slots; `nodes` holds what is keyed."""

    def __init__(self):
        self.slots = 1
        self.nodes = {}

    def copy(self):
        copy = Tree()
        copy.slots = self.slots
        copy.nodes = dict(self.nodes)
        return copy

    def root(self):
        return self.slots - 1

    def path(self, slot):
        node, path = 2 * slot, []
        while node != self.root():
            node = parent(node)
            path.append(node)
        return path

    def is_occupied(self, node):
        k = level(node)
        first, last = node - ((1 << k) - 1), node + ((1 << k) - 1)
        return any(leaf in self.nodes for leaf in range(first, last + 1, 2))

    def resolution(self, node):
        if node in self.nodes:
            return [node]
        if level(node) == 0:
            return []
        return self.resolution(left(node)) + self.resolution(right(node))

    def blank_path(self, slot):
        for node in self.path(slot):
            self.nodes.pop(node, None)

    def slot_of(self, device):
        for node, record in self.nodes.items():
            if node % 2 == 0 and record.device == device:
                return node // 2
        return None

    def halve(self):
        while self.slots > 1 and not self.is_occupied(right(self.root())):
            self.slots //= 2
            for node in [node for node in self.nodes if node > 2 * (self.slots - 1)]:
                del self.nodes[node]

    def hash(self, epoch):
        records = sorted(
            (n, r.kind, r.public, r.device, r.generation, r.source, r.epoch) for n, r in self.nodes.items()
        )
        return digest("th", "grp", epoch, records)


def agreed(known, left_public, right_public, own_is_left, node):
    shared = diffie_hellman(known, right_public if own_is_left else left_public)
    return digest("agreed", shared, "grp", node, left_public, right_public)


def lifted(secret, node):
    return digest("lift", secret, node)


def sealed(secret, node, epoch):
    return digest("seal", secret, node, epoch)


class Bad(Exception):
    """What a reader would refuse."""


def path_secrets(tree, slot, leaf_secret):
    """All secrets above a leaf, from its secret and the public tree alone."""
    if public(leaf_secret) != tree.nodes[2 * slot].public:
        raise Bad("leaf")
    known = {2 * slot: leaf_secret}
    for node in tree.path(slot):
        if node not in tree.nodes:
            continue
        record, lower, upper = tree.nodes[node], left(node), right(node)
        own = lower if any(is_below(child, lower) for child in known) else upper
        if record.kind == "agreed":
            if own not in known:
                raise Bad("agreed: child unknown")
            secret = agreed(known[own], tree.nodes[lower].public, tree.nodes[upper].public, own == lower, node)
        elif record.kind == "lifted":
            if own not in known:
                raise Bad("lifted: child unknown")
            secret = lifted(known[own], node)
        elif record.source == own:
            if own not in known:
                raise Bad("sealed: source unknown")
            secret = sealed(known[own], node, record.epoch)
        else:
            recipients = [recipient for recipient in record.ciphertexts if recipient in known]
            if not recipients:
                raise Bad("sealed: no ciphertext")
            recipient_public, secret = record.ciphertexts[recipients[0]]
            if recipient_public != public(known[recipients[0]]):
                raise Bad("sealed: a ciphertext to another key")
        if public(secret) != record.public:
            raise Bad("public key of node %d, %s" % (node, record.kind))
        known[node] = secret
    if tree.root() not in known:
        raise Bad("root blank")
    return known


def group_key(tree, epoch, root_secret):
    return digest("gk", tree.hash(epoch), root_secret)


# --- What follows from what ---

# Conclusion: set of premises, each enough alone. A premise is a secret, or ("private of", a public key).
DERIVATIONS = collections.defaultdict(set)


def derives(conclusion, *premises):
    DERIVATIONS[conclusion] |= set(premises)


def closure(known):
    """All that follows."""
    known = set(known)
    publics = {public(secret) for secret in known}
    changed = True
    while changed:
        changed = False
        for conclusion, premises in DERIVATIONS.items():
            if conclusion in known:
                continue
            for premise in premises:
                if (premise[1] in publics) if isinstance(premise, tuple) else (premise in known):
                    known.add(conclusion)
                    publics.add(public(conclusion))
                    changed = True
                    break
    return known


# --- Devices and commits ---


class Device:
    def __init__(self, number):
        self.number = number
        self.generation = 0
        self.secret = None
        self.known = set()


class World:
    """One group and those outside it. `tree` is the last commit's with all fills since, `committed` without them."""

    def __init__(self, seed, most=16, devices=20):
        self.random = random.Random(seed)
        self.epoch = 0
        self.most = most
        self.devices = [Device(number) for number in range(devices)]
        self.history = []
        self.counts = collections.Counter()
        self.fills = {}
        self.tree = Tree()
        self.tm = 0
        self.tree.nodes[0] = self.fresh_leaf(0)
        self.committed = self.tree.copy()
        self.record()

    def fresh_leaf(self, number):
        device = self.devices[number]
        device.secret = self.random.getrandbits(256).to_bytes(32, "big")
        device.generation += 1
        device.known.add(device.secret)
        return Node("leaf", public(device.secret), device=number, generation=device.generation)

    def members(self, tree=None):
        tree = tree or self.tree
        return {record.device: node // 2 for node, record in tree.nodes.items() if node % 2 == 0}

    def record(self):
        """Every member computes the key of the new epoch; all get the same."""
        members, roots = self.members(self.committed), set()
        for number, slot in members.items():
            known = path_secrets(self.committed, slot, self.devices[number].secret)
            self.devices[number].known |= set(known.values())
            roots.add(known[self.committed.root()])
        assert len(roots) == 1, "agreement"
        root = roots.pop()
        leaves = {number: self.devices[number].secret for number in members}
        self.history.append((self.epoch, frozenset(members), root, leaves))
        self.key = group_key(self.committed, self.epoch, root)

    def commit(self, tm, removed=(), refreshed=(), joined=(), fills=None):
        """SPEC.md, 3: the order of application."""
        tree = self.committed.copy()
        self.epoch += 1
        tree.nodes.update(self.fills if fills is None else fills)
        for number in removed:
            slot = tree.slot_of(number)
            tree.blank_path(slot)
            del tree.nodes[2 * slot]
        tree.halve()
        for number in refreshed:
            slot = tree.slot_of(number)
            leaf = self.fresh_leaf(number)
            tree.blank_path(slot)
            tree.nodes[2 * slot] = leaf
        for number in joined:
            leaf = self.fresh_leaf(number)
            free = [slot for slot in range(tree.slots) if 2 * slot not in tree.nodes]
            if not free:
                free = [tree.slots]
                tree.slots *= 2
            tree.nodes[2 * free[0]] = leaf
            tree.blank_path(free[0])
        self.key_path(tree, tm)
        self.committed = tree
        self.tree = tree.copy()
        self.fills = {}
        self.tm = tm
        self.record()

    def key_path(self, tree, tm):
        slot = tree.slot_of(tm)
        tree.nodes[2 * slot] = self.fresh_leaf(tm)
        secret, child, ciphertexts = self.devices[tm].secret, 2 * slot, 0
        tree.blank_path(slot)
        for node in tree.path(slot):
            other, below = sibling(child), secret
            if other in tree.nodes:
                lower, upper = tree.nodes[left(node)], tree.nodes[right(node)]
                secret = agreed(below, lower.public, upper.public, child == left(node), node)
                derives(secret, below, ("private of", tree.nodes[other].public))
                tree.nodes[node] = Node("agreed", public(secret), author=tm, epoch=self.epoch)
            elif not tree.is_occupied(other):
                secret = lifted(below, node)
                derives(secret, below)
                tree.nodes[node] = Node("lifted", public(secret), author=tm, epoch=self.epoch)
            else:
                secret = sealed(below, node, self.epoch)
                derives(secret, below)
                opened = {}
                for recipient in tree.resolution(other):
                    opened[recipient] = (tree.nodes[recipient].public, secret)
                    derives(secret, ("private of", tree.nodes[recipient].public))
                    ciphertexts += 1
                tree.nodes[node] = Node(
                    "sealed", public(secret), source=child, epoch=self.epoch, ciphertexts=opened, author=tm
                )
            child = node
        self.counts["ciphertexts"] += ciphertexts
        self.counts["commits"] += 1
        self.counts["most ciphertexts"] = max(self.counts["most ciphertexts"], ciphertexts)

    def is_fillable(self, tree, node):
        if node in tree.nodes or level(node) == 0:
            return False
        lower, upper = left(node), right(node)
        if lower in tree.nodes and upper in tree.nodes:
            return True
        alone = lambda child, other: child in tree.nodes and not tree.is_occupied(other)
        return alone(lower, upper) or alone(upper, lower)

    def fill(self, probability):
        """Members below key blank parents, as far as chance lets them."""
        changed = True
        while changed:
            changed = False
            for node in range(1, 2 * self.tree.slots - 1, 2):
                if self.is_fillable(self.tree, node) and self.random.random() < probability:
                    self.fill_node(node)
                    changed = True

    def fill_node(self, node):
        tree, lower, upper = self.tree, left(node), right(node)
        below = [number for number, slot in self.members().items() if is_below(2 * slot, node)]
        secrets = set()
        for number in below:
            known = path_secrets(tree, tree.slot_of(number), self.devices[number].secret)
            if lower in tree.nodes and upper in tree.nodes:
                kind, publics = "agreed", [tree.nodes[child].public for child in (lower, upper)]
                child = lower if lower in known else upper
                secret = agreed(known[child], *publics, child == lower, node)
                derives(secret, *(("private of", key) for key in publics))
            else:
                kind, child = "lifted", lower if lower in tree.nodes else upper
                secret = lifted(known[child], node)
                derives(secret, known[child])
            secrets.add(secret)
            self.devices[number].known.add(secret)
        assert len(secrets) == 1, "members below fill differently"
        author = self.random.choice(below)
        tree.nodes[node] = self.fills[node] = Node(kind, public(secrets.pop()), author=author, epoch=self.epoch)
        self.counts["fills"] += 1


class Step:
    """One commit, before it happens: what each step of a run draws."""

    def __init__(self, world):
        chance = world.random
        members = list(world.members())
        outside = [device.number for device in world.devices if device.number not in members]
        # The fills that the next transaction manager has heard of: some, children before parents.
        self.fills = {}
        for node in sorted(world.fills, key=level):
            if chance.random() < 0.8 and all(
                child not in world.fills or child in self.fills for child in (left(node), right(node))
            ):
                self.fills[node] = world.fills[node]
        which = chance.random()
        self.removed, self.joined, self.tm = [], [], world.tm
        if len(members) > 1 and which < 0.35:
            self.removed = chance.sample(members, chance.randint(1, min(3, len(members) - 1)))
        staying = len(members) - len(self.removed)
        if which > 0.25 and outside and staying < world.most:
            count = min(len(outside), chance.randint(1, 3), world.most - staying)
            self.joined = chance.sample(outside, count)
        if self.tm in self.removed or chance.random() < 0.3:
            self.tm = chance.choice([member for member in members if member not in self.removed])
        self.refreshed = [
            member
            for member in members
            if member not in self.removed and member != self.tm and chance.random() < 0.15
        ]


def run(seed, steps=40, most=16, after=None):
    """A random history; `after(world, step)` looks at every commit. Gives the counts."""
    DERIVATIONS.clear()
    PUBLIC.clear()
    SHARED.clear()
    world = World(seed, most)
    for _ in range(steps):
        world.fill(world.random.choice([0, 0.3, 0.7, 1]))
        # A snapshot and the own leaf secret suffice, whatever was missed; later fills change nothing.
        for number, slot in world.members().items():
            for tree in (world.committed, world.tree):
                root = path_secrets(tree, slot, world.devices[number].secret)[tree.root()]
                assert group_key(world.committed, world.epoch, root) == world.key, "recovery"
            world.counts["recoveries"] += 1
        step = Step(world)
        world.commit(step.tm, step.removed, step.refreshed, step.joined, step.fills)
        if after:
            after(world, step)
        else:
            check_capture(world)
    if not after:
        check_exclusion(world)
    return world.counts


def check_capture(world):
    """A device captured now reveals no epoch before its last leaf change."""
    number = world.random.choice(list(world.members()))
    slot = world.members()[number]
    revealed = closure(path_secrets(world.committed, slot, world.devices[number].secret).values())
    for epoch, members, root, leaves in world.history:
        if root in revealed:
            assert number in members and leaves[number] == world.devices[number].secret, ("capture", epoch)


def check_exclusion(world):
    """All that are not in an epoch, with all they ever held, before and after, do not know its key."""
    known = {}
    for epoch, members, root, _ in world.history:
        outside = frozenset(device.number for device in world.devices if device.number not in members)
        if outside not in known:
            known[outside] = closure(set().union(*(world.devices[number].known for number in outside)))
        world.counts["exclusion checks"] += 1
        assert root not in known[outside], ("exclusion", epoch)


def main():
    first, last = int(sys.argv[1]), int(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 30
    total = collections.Counter()
    for seed in range(first, last):
        counts = run(seed, steps)
        most = max(total["most ciphertexts"], counts["most ciphertexts"])
        total += counts
        total["most ciphertexts"] = most
    for name, value in sorted(total.items()):
        print(name, value)


if __name__ == "__main__":
    main()
