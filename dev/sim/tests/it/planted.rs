//! Faults built into the pure crates (`cargo xtask planted`): each is found, and its kept script finds it as well.

use sim::soak::{self, Script};
use types::planted::{Planted, plant};

fn failure(script: &Script, fault: Planted) -> Option<String> {
    plant(Some(fault));
    let failure = soak::failure(script, None);
    plant(None);
    failure
}

#[test]
fn every_planted_fault_is_found() {
    for fault in Planted::ALL {
        let fails = |script: &Script| failure(script, fault).is_some();
        let seed = (0..20).find(|seed| fails(&Script::random(*seed, 1000)));
        let seed = seed.unwrap_or_else(|| panic!("{fault:?} was not found"));
        let script = Script::random(seed, 1000);
        println!("{fault:?}: seed {seed}: {}", failure(&script, fault).unwrap_or_default());
        let small = soak::shrink(&script, fails);
        let what = failure(&small, fault).unwrap_or_default();
        println!("{} of {} actions: {what}\n{small}", small.actions.len(), script.actions.len());
        assert!(small.actions.len() < 60, "{fault:?} takes {} actions", small.actions.len());
        assert_eq!(soak::failure(&small, None), None, "{fault:?}: not by itself");
    }
}

#[test]
fn what_is_kept_finds_what_it_was_kept_for() {
    let kept = crate::soaks::kept();
    for fault in Planted::ALL {
        let name = format!("{fault:?}");
        let (_, script) = kept.iter().find(|(known, _)| *known == name).unwrap_or_else(|| {
            panic!("dev/sim/tests/kept/{name} is missing: the other test prints it")
        });
        assert!(failure(script, fault).is_some(), "{name}");
    }
}
