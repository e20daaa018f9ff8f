//! Model: random orders, late, doubled and out of order, on a disk and a kernel that are slow and fail, with crashes between any two effects.

use portcullis_schemas::events::Order;

use super::tests::{actor, at, done, event, host, order};
use super::*;

/// What survives the process: the disk, and the rules in the kernel.
struct World {
    disk: StoredRecord,
    kernel: Posture,
    machine: Machine,
    /// What was asked for and is not answered yet.
    asked: Vec<Effect>,
    /// The last write that has failed: a copy that is not on the disk is held against nobody.
    failed: u64,
    millis: u64,
    boot: u64,
}

#[test]
fn the_gate_opens_only_by_a_word_that_is_on_the_disk_and_generations_never_go_back() {
    for seed in 1..=400 {
        let mut chance = Chance(seed);
        let mut world = World {
            disk: StoredRecord::Never,
            kernel: Posture::Open,
            machine: host(StoredRecord::Never),
            asked: Vec::new(),
            failed: 0,
            millis: 0,
            boot: 0,
        };
        let mut issued = vec![(1, Posture::Isolated)];
        for step in 0..300 {
            world.millis += if chance.below(4) == 0 { chance.below(100_000) } else { chance.below(200) };
            match chance.below(20) {
                0 | 1 => {
                    let posture = if chance.below(2) == 0 { Posture::Open } else { Posture::Isolated };
                    let above = world.machine.generation().max(issued.len() as u64);
                    issued.push((above + 1, posture));
                }
                2 => world.handle(Event::LocalRelease(actor())),
                3 => world.restart(chance.below(3) == 0),
                4 => world.handle(Event::Tick),
                5..8 => {
                    let (generation, posture) = issued[chance.below(issued.len() as u64) as usize];
                    let order = Order { release_at: Some(at(700).wall), ..order(generation, posture) };
                    let order = if posture == Posture::Open { Order { release_at: None, ..order } } else { order };
                    let (me, acknowledged) = (world.machine.me().clone(), chance.below(2) == 0);
                    world.handle(Event::Order { subject: &me, event: &event(order), acknowledged });
                }
                _ => world.answer(&mut chance),
            }
            assert!(world.asked.len() <= 3, "seed {seed} step {step}: {:?}", world.asked);
        }
        world.rest();
        assert_eq!(world.kernel, world.machine.posture(), "seed {seed}");
        let recorded = (world.disk.generation(world.machine.me()), world.disk.posture());
        assert_eq!(recorded, (world.machine.generation(), world.machine.posture()), "seed {seed}");
    }
}

impl World {
    fn now(&self) -> Now {
        Now { boot_id: format!("boot {}", self.boot), boot_ms: self.millis, ..at(self.millis / 1_000) }
    }

    fn handle(&mut self, event: Event<'_>) {
        let now = self.now();
        self.machine.handle(event, &now);
        while let Some(effect) = self.machine.next_effect() {
            match &effect {
                Effect::Activate(_) => {
                    let (generation, wait) = (self.machine.generation(), self.asked.iter().any(is_write));
                    let recorded = self.disk.generation(self.machine.me()) >= generation;
                    assert!(recorded || wait || self.failed >= generation, "{generation} activated and not recorded");
                }
                Effect::Release => {
                    let by_itself = self.machine.stored().record().is_some_and(|record| record.opened.is_some());
                    let recorded = self.disk.posture() == Posture::Open || self.failed >= self.machine.generation();
                    assert!(!by_itself || recorded, "open against the word on the disk");
                }
                Effect::Report(report) => {
                    let taken = self.machine.generation();
                    assert!(report.error.is_some() || report.generation <= taken, "{report:?} while {taken} is taken");
                }
                _ => {}
            }
            if done(&effect).is_some() {
                self.asked.push(effect);
            }
        }
    }

    /// One of those that were asked is done, or fails.
    fn answer(&mut self, chance: &mut Chance) {
        if !self.asked.is_empty() {
            let effect = self.asked.remove(chance.below(self.asked.len() as u64) as usize);
            let works = chance.below(5) > 0;
            self.perform(effect, works);
        }
    }

    fn perform(&mut self, effect: Effect, works: bool) {
        let answer = match &effect {
            Effect::WriteState { copy, record } if !works => {
                self.failed = self.failed.max(record.generation);
                Event::Written { copy: *copy, serial: record.serial, written: Written::Failed("no".into()) }
            }
            Effect::Activate(_) if !works => Event::Activated(Activation {
                enforced: self.kernel,
                whole: false,
                proof: None,
                standing: Vec::new(),
                error: Some("no".into()),
            }),
            Effect::Release if !works => Event::Released { enforced: self.kernel, error: Some("no".into()) },
            _ => done(&effect).expect("it has an answer"),
        };
        match effect {
            Effect::WriteState { record, .. } if works => {
                let (before, after) = (self.disk.generation(self.machine.me()), record.generation);
                assert!(before <= after, "generation went back from {before} to {after}");
                if self.disk.posture() == Posture::Isolated && record.posture == Posture::Open && before == after {
                    assert_eq!(record.opened.as_ref().map(|opened| opened.generation), Some(after));
                }
                if let Some(opened) = self.disk.record().and_then(|record| record.opened.as_ref()) {
                    assert!(record.posture == Posture::Open || record.generation > opened.generation);
                }
                self.disk = StoredRecord::Known(record);
            }
            Effect::Activate(_) if works => self.kernel = Posture::Isolated,
            Effect::Release if works => self.kernel = Posture::Open,
            _ => {}
        }
        self.handle(answer);
    }

    fn restart(&mut self, reboot: bool) {
        if reboot {
            self.boot += 1;
            self.kernel = Posture::Open;
        }
        self.asked.clear();
        self.machine = host(self.disk.clone());
        let recorded = self.disk.posture() == Posture::Isolated;
        self.handle(Event::Start { enforced: self.kernel, recorded });
        // What the disk says counts for nothing any more.
        if *self.machine.stored() == StoredRecord::Lost {
            self.disk = StoredRecord::Lost;
        }
    }

    /// Everything works from now on.
    fn rest(&mut self) {
        for _ in 0..20 {
            self.millis += 60_000;
            self.handle(Event::Tick);
            while !self.asked.is_empty() {
                let effect = self.asked.remove(0);
                self.perform(effect, true);
            }
        }
    }
}

fn is_write(effect: &Effect) -> bool {
    matches!(effect, Effect::WriteState { .. })
}

/// A linear congruence: the same seed gives the same story.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}
