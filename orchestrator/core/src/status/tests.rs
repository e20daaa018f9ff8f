//! The table of statuses: order × state × silence × time.

use portcullis_schemas::events::{
    Evidence,
    Posture::{self, Isolated, Open},
    StateCause,
};

use super::*;
use crate::testing::{World, at, hello, state};

#[test]
fn what_operators_see() {
    let no = |generation, posture| Some(State { error: Some("nft: no".into()), ..state(generation, posture, StateCause::Order) });
    let is = |generation, posture| Some(state(generation, posture, StateCause::Order));
    let unread = Some(State { evidence: Evidence::default(), ..state(1, Isolated, StateCause::Order) });
    for (what, ordered, state, second, status) in [
        ("nothing known", None, None, 0, Status::Open),
        ("open without an order", None, is(0, Open), 0, Status::Open),
        ("isolated without an order", None, is(3, Isolated), 0, Status::Drift),
        ("ordered", Some(Isolated), None, 30, Status::Isolating),
        ("the word of an order is no isolation", Some(Isolated), is(0, Open), 30, Status::Isolating),
        ("confirmed", Some(Isolated), is(1, Isolated), 9_999, Status::Isolated),
        ("not read back", Some(Isolated), unread, 30, Status::Isolating),
        ("of an older generation", Some(Isolated), is(0, Isolated), 30, Status::Isolating),
        ("late", Some(Isolated), None, 31, Status::Drift),
        ("opened by itself", Some(Isolated), is(1, Open), 31, Status::Drift),
        ("cannot", Some(Isolated), no(1, Open), 0, Status::Failed),
        ("holds it, with an error", Some(Isolated), no(1, Isolated), 0, Status::Failed),
        ("could not do an older one", Some(Isolated), no(0, Open), 0, Status::Isolating),
        ("ordered open", Some(Open), is(0, Isolated), 30, Status::Releasing),
        ("open", Some(Open), is(1, Open), 9_999, Status::Open),
        ("still isolated", Some(Open), is(0, Isolated), 31, Status::Drift),
    ] {
        let order = ordered.map(order);
        let view = View { order: order.as_ref(), state: state.as_ref(), inventory: None };
        assert_eq!(super::status(view, at(second)), status, "{what}");
        let silent = Inventory {
            hello: hello("h1"),
            claims: Vec::new(),
            silent_since: Some(at(0)),
            roles_since: Default::default(),
            operator: None,
        };
        assert_eq!(super::status(View { inventory: Some(&silent), ..view }, at(second)), Status::Unreachable, "{what}, silent");
    }
}

fn order(posture: Posture) -> Order {
    let mut world = World::new();
    match posture {
        Isolated => world.isolate("r1", 0),
        Open => world.release("r1", 0),
    };
    world.order().clone()
}
