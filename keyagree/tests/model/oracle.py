"""Prints random histories and the trees that the model gets, for ../../src/tests/oracle.rs to do the same.

Run: python3 oracle.py FIRST LAST STEPS

    seed 1
    commit tm=0 fills=1:4,3:4 removed=2 refreshed=5 joined=7,3
    tree slots=4 leaves=0:0,2:5 parents=1:lifted:L,3:sealed:L:4+6

Devices are numbers. A fill is a node and its author; a parent is a node, its kind, the side of its author, and of a
sealed one the recipients of its ciphertexts. Slots of removed and the order of joined are the commit's.
"""

import sys

from model import is_below, left, run


def listed(name, items):
    items = ",".join(str(item) for item in items)
    return " %s=%s" % (name, items) if items else ""


def show_parent(tree, node, record):
    slot = tree.slot_of(record.author)
    side = "L" if is_below(2 * slot, left(node)) else "R"
    assert record.source is None or (record.source == left(node)) == (side == "L")
    recipients = "+".join(str(recipient) for recipient in record.ciphertexts)
    return "%d:%s:%s" % (node, record.kind, side) + (":" + recipients if recipients else "")


def show(world, step):
    print(
        "commit tm=%d" % step.tm
        + listed("fills", ("%d:%d" % (node, fill.author) for node, fill in step.fills.items()))
        + listed("removed", step.removed)
        + listed("refreshed", step.refreshed)
        + listed("joined", step.joined)
    )
    tree = world.committed
    nodes = sorted(tree.nodes.items())
    print(
        "tree slots=%d" % tree.slots
        + listed("leaves", ("%d:%d" % (node // 2, record.device) for node, record in nodes if node % 2 == 0))
        + listed("parents", (show_parent(tree, node, record) for node, record in nodes if node % 2 == 1))
    )


def main():
    first, last, steps = (int(argument) for argument in sys.argv[1:])
    for seed in range(first, last):
        print("seed", seed)
        run(seed, steps, after=show)


if __name__ == "__main__":
    main()
