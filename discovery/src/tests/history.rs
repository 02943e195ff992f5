//! Whatever happens on the network, events tell a consistent story, and after the storm everybody is there.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Cut(usize, usize),
    CutOneWay(usize, usize),
    Heal,
    Kill(usize),
    Start(usize),
    Leave(usize),
    Loss(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..4_usize;
    prop_oneof![
        4 => (1..2000_u64).prop_map(Step::Wait),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::CutOneWay(a, b)),
        2 => Just(Step::Heal),
        1 => node.clone().prop_map(Step::Kill),
        3 => node.clone().prop_map(Step::Start),
        1 => node.prop_map(Step::Leave),
        1 => (0..60_u32).prop_map(Step::Loss),
    ]
}

/// What a node should think of another, after the events so far.
#[derive(Clone, Copy, Debug, PartialEq)]
enum View {
    Up(u64),
    Silent(u64),
    Left(u64),
}

fn check(events: &[(Time, Event)]) -> BTreeMap<MemberId, View> {
    let mut views: BTreeMap<MemberId, View> = BTreeMap::new();
    for (_, event) in events {
        match event {
            Event::Joined { member, startup, kind, .. } => {
                match (kind, views.get(member)) {
                    (JoinKind::Join, None) => {}
                    (JoinKind::Join, Some(View::Silent(old) | View::Left(old))) => assert_ne!(old, startup),
                    (JoinKind::Restore, Some(View::Silent(old))) => assert_eq!(old, startup),
                    other => panic!("{other:?}"),
                }
                views.insert(*member, View::Up(*startup));
            }
            Event::Gone { member, reason } => {
                let Some(View::Up(startup)) = views.get(member).copied() else { panic!("gone before up") };
                let left = if *reason == GoneReason::Silent { View::Silent } else { View::Left };
                views.insert(*member, left(startup));
            }
            Event::Heard { member, startup, .. } => assert_eq!(views.get(member), Some(&View::Up(*startup))),
            Event::PrefixesChanged { member, .. } => {
                assert!(matches!(views.get(member), Some(View::Up(_))));
            }
            _ => {}
        }
    }
    views
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn events_are_consistent_and_all_end_up_together(steps in prop::collection::vec(step(), 1..40)) {
        let mut net = Net::of(&[100, 200, 300, 400]);
        net.record = false;
        net.duplicates = 10;
        net.jitter = ms(10);
        let mut stories: Vec<Vec<(Time, Event)>> = vec![Vec::new(); 4];
        let mut startup = [100_u64; 4];
        for step in steps {
            match step {
                Step::Wait(time) => net.run(ms(time)),
                Step::Cut(a, b) => net.cut(a, b),
                Step::CutOneWay(a, b) => drop(net.cut.insert((a, b))),
                Step::Heal => net.heal(),
                Step::Loss(loss) => net.loss = loss,
                Step::Kill(node) => net.kill(node),
                Step::Leave(node) => {
                    if net.nodes[node].machine.is_some() {
                        net.with(node, |machine, now| machine.shutdown(now));
                        net.kill(node);
                    }
                }
                Step::Start(node) => {
                    startup[node] += 1;
                    // A new process knows nothing of the old one's events.
                    check(&std::mem::take(&mut net.nodes[node].events));
                    stories[node].clear();
                    net.kill(node);
                    let own = format!("10.{node}.{}.0/24", startup[node] % 256).parse().unwrap();
                    net.start(node, startup[node]);
                    net.with(node, |machine, now| machine.set_prefixes(now, vec![own])).unwrap();
                }
            }
            for (node, story) in stories.iter_mut().enumerate() {
                story.append(&mut net.nodes[node].events);
            }
        }
        net.heal();
        net.loss = 0;
        net.run(ms(8000));
        let alive: Vec<usize> = (0..4).filter(|node| net.nodes[*node].machine.is_some()).collect();
        for node in &alive {
            let mut story = stories[*node].clone();
            story.append(&mut net.nodes[*node].events);
            let views = check(&story);
            for other in alive.iter().filter(|other| *other != node) {
                prop_assert_eq!(views.get(&net.member(*other)), Some(&View::Up(startup[*other])));
            }
            let up = views.values().filter(|view| matches!(view, View::Up(_))).count();
            prop_assert_eq!(up, alive.len() - 1);
            for status in net.status(*node) {
                let other = alive.iter().find(|other| net.member(**other) == status.member).unwrap();
                let expected = if startup[*other] == 100 { 0 } else { 1 };
                prop_assert_eq!(status.prefixes.len(), expected, "prefixes of the present run");
            }
        }
    }
}
