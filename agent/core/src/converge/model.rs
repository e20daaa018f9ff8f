//! Model: random orders, late, doubled and out of order, with crashes between any two effects.

use super::tests::{actor, at, event, give, host, order};
use super::*;

/// What survives the process: the disk, and the rules in the kernel.
struct World {
    disk: Standing,
    kernel: Posture,
    host: Host,
    second: u64,
    boot: u64,
}

#[test]
fn the_gate_opens_only_by_a_word_that_is_on_the_disk_and_generations_never_go_back() {
    for seed in 1..=400 {
        let mut chance = Chance(seed);
        let mut world = World { disk: Standing::Never, kernel: Posture::Open, host: host(Standing::Never), second: 0, boot: 0 };
        let mut issued = vec![(1, Posture::Isolated)];
        for step in 0..120 {
            world.second += chance.below(200);
            let effects = match chance.below(10) {
                0 => {
                    let posture = if chance.below(2) == 0 { Posture::Open } else { Posture::Isolated };
                    let above = world.disk.generation(&world.host.me).max(issued.len() as u64);
                    issued.push((above + 1, posture));
                    Vec::new()
                }
                1 => world.handle(Cause::LocalRelease(actor())),
                2 => world.restart(chance.below(3) == 0),
                3 | 4 => world.handle(Cause::Tick),
                _ => {
                    let (generation, posture) = issued[chance.below(issued.len() as u64) as usize];
                    let order = Order { release_at: Some(at(700).wall), ..order(generation, posture) };
                    let order = if posture == Posture::Open { Order { release_at: None, ..order } } else { order };
                    let now = world.now();
                    give(&mut world.host, &event(order), chance.below(2) == 0, now)
                }
            };
            let whole = world.apply(&effects, chance.below(effects.len() as u64 * 4 + 1) as usize);
            if !whole {
                let effects = world.restart(chance.below(2) == 0);
                assert!(world.apply(&effects, usize::MAX), "seed {seed} step {step}");
            }
            assert_eq!(world.kernel, world.disk.posture(), "seed {seed} step {step}");
        }
    }
}

impl World {
    fn now(&self) -> Now {
        Now { boot_id: format!("boot {}", self.boot), ..at(self.second) }
    }

    fn handle(&mut self, cause: Cause<'_>) -> Vec<Effect> {
        let now = self.now();
        self.host.handle(cause, &now)
    }

    fn restart(&mut self, reboot: bool) -> Vec<Effect> {
        if reboot {
            self.boot += 1;
            self.kernel = Posture::Open;
        }
        self.host = host(self.disk.clone());
        self.handle(Cause::Start)
    }

    /// Performs the first `most` effects; false if the process died before the last one.
    fn apply(&mut self, effects: &[Effect], most: usize) -> bool {
        for effect in effects.iter().take(most) {
            match effect {
                Effect::Persist(record) => {
                    let (before, after) = (self.disk.generation(&self.host.me), record.generation);
                    assert!(before <= after, "generation went back from {before} to {after}");
                    if self.disk.posture() == Posture::Isolated && record.posture == Posture::Open && before == after {
                        assert_eq!(record.opened.as_ref().map(|opened| opened.generation), Some(after));
                    }
                    if let Some(opened) = self.disk.record().and_then(|record| record.opened.as_ref()) {
                        assert!(record.posture == Posture::Open || record.generation > opened.generation);
                    }
                    self.disk = Standing::Known(record.clone());
                    self.host.standing = self.disk.clone();
                }
                Effect::Enforce => self.kernel = self.host.standing.posture(),
                Effect::Report(report) => {
                    let stands = self.host.standing.generation(&self.host.me);
                    assert!(report.error.is_some() || report.generation == stands, "{report:?} while {stands} stands");
                }
                Effect::Resend | Effect::Refuse(_) => {}
            }
            let word = self.disk.posture();
            assert!(
                self.kernel == Posture::Isolated || word == Posture::Open || effects_pending(effects),
                "open against the word"
            );
        }
        most >= effects.len()
    }
}

/// Between the word on the disk and the rules in the kernel lies one step.
fn effects_pending(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Enforce)
}

/// A linear congruence: the same seed gives the same story.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}
