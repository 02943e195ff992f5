//! A key server, its disk and its clients, one of them in the attacker's hands, on a network that delivers, delays, drops,
//! repeats and changes what it likes. When it has done so, all come to what the profiles say.

mod mad_server;
mod profiles;
mod world;

use std::time::Duration;

use muster_fmke::isakmp::{Chain, Delete, Notify, Range, exchange, kind, notification};
use muster_sim::Input;
use muster_sim::forge::scramble;

use world::{INSIDER, ROUTERS, SERVER, World};

/// Operations of one input.
const MAX_OPERATIONS: usize = 40;
/// Until all is as it is to be again: a silent server is noticed after half a minute, a lost group after 95 s.
const PATIENCE: Duration = Duration::from_secs(600);

/// A key server that is as it should be, or one that has gone mad.
pub(crate) fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    if input.below(4) == 0 {
        return mad_server::operations(&mut input);
    }
    let mut world = World::new();
    world.run(Duration::from_millis([5, 200, 3000][input.below(3)]));
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.below(16) {
            0..=8 => network(&mut world, &mut input),
            9..=12 => command(&mut world, &mut input),
            _ => insider(&mut world, &mut input),
        }
        world.check();
    }
    world.settle(PATIENCE);
}

/// What the network may do with honest datagrams and with time.
fn network(world: &mut World, input: &mut Input<'_>) {
    let place = input.below(world.wire.len());
    match input.below(9) {
        // As a good network does.
        0 | 1 => world.run(Duration::from_millis([1, 10, 60, 300, 1000, 2500, 35_000][input.below(7)])),
        // Nobody hears anybody.
        2 => {
            world.wire.clear();
            world.pass(Duration::from_millis([5, 100, 1100, 4500, 40_000][input.below(5)]));
        }
        3 => {
            if let Some(datagram) = world.wire.remove(place) {
                world.deliver(&datagram, false);
            }
        }
        4 => drop(world.wire.remove(place)),
        5 => {
            if let Some(datagram) = world.wire.get(place).cloned() {
                world.deliver(&datagram, false);
            }
        }
        // Again, to anybody, from another address perhaps.
        6 => {
            if let Some(mut datagram) = world.remembered(input) {
                datagram.to = input.below(SERVER + 1);
                datagram.from = input.below(SERVER + 2);
                world.deliver(&datagram, false);
            }
        }
        // Changed on its way by somebody without a key: nothing may come of it.
        _ => {
            if let Some(mut datagram) = world.remembered(input) {
                let before = datagram.bytes.clone();
                scramble(&mut datagram.bytes, input);
                let is_forged = datagram.bytes != before;
                world.deliver(&datagram, is_forged);
            }
        }
    }
}

/// What operators, and their machines, may do.
fn command(world: &mut World, input: &mut Input<'_>) {
    match input.below(8) {
        0 | 1 => world.rekey(),
        2 => world.exclude(input.below(INSIDER + 1)),
        3 => world.admit(input.below(INSIDER + 1)),
        4 => world.restart(input.below(ROUTERS)),
        5 => world.configure(input.flag()),
        // Killed between two inputs.
        6 => world.kill(),
        // Killed, or its disk is broken, before what came of an input was stored: nothing of that was sent.
        _ => world.kill_at_a_rekey(),
    }
}

/// A client says what it likes under its own SA.
fn insider(world: &mut World, input: &mut Input<'_>) {
    let mut chain = Chain::new();
    let exchange = [exchange::UNICAST_PUSH, exchange::INFORMATIONAL, exchange::MULTICAST_PUSH, 99][input.below(4)];
    for _ in 0..=input.below(3) {
        let (mut body, usual) = match input.below(7) {
            0 => (number(input).to_be_bytes().to_vec(), kind::ACK),
            1 => (Range { first: number(input), last: number(input) }.to_body().to_vec(), kind::SACK),
            2 => (Range { first: number(input), last: number(input) }.to_body().to_vec(), kind::NACK),
            3 => {
                let spi = world.insider_sa().unwrap_or_default();
                (Delete { doi: profiles::DOI, protocol: 1, spis: vec![spi.to_vec()] }.to_body(), kind::DELETE)
            }
            4 | 5 => {
                let known = [notification::R_U_THERE, notification::R_U_THERE_ACK, notification::INITIAL_CONTACT];
                let (spi, data) = (world.insider_sa().unwrap_or_default(), number(input).to_be_bytes());
                let kind = known[input.below(known.len())];
                (Notify { doi: profiles::DOI, protocol: 1, spi: &spi, kind, data: &data }.to_body(), kind::NOTIFY)
            }
            _ => (input.bytes(40).to_vec(), input.byte()),
        };
        if input.below(4) == 0 {
            scramble(&mut body, input);
        }
        chain.add(usual, &body);
    }
    let is_hashed_with_id = input.flag();
    world.insider_says(exchange, chain, is_hashed_with_id);
}

fn number(input: &mut Input<'_>) -> u32 {
    [u32::from(input.byte()), 0, 1, u32::MAX, u32::MAX - 1, 1 << 31][input.below(6)]
}
