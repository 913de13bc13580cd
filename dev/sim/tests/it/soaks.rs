//! The soak: fixed seeds, kept scripts, defects between the scheduler and the model.

use std::{fs, path::PathBuf};

use sim::soak::{self, Defect, Script};

/// Scripts that once failed, by name.
pub(crate) fn kept() -> Vec<(String, Script)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kept");
    let mut kept: Vec<(String, Script)> = fs::read_dir(folder)
        .expect("the folder is part of the tree")
        .map(|entry| {
            let path = entry.expect("its entries can be read").path();
            let text = fs::read_to_string(&path).expect("its files as well");
            let script = text.parse().unwrap_or_else(|what| panic!("{}: {what}", path.display()));
            let name = path.file_stem().expect("a file has a name");
            (name.to_string_lossy().into_owned(), script)
        })
        .collect();
    kept.sort_by(|one, other| one.0.cmp(&other.0));
    kept
}

#[test]
fn nothing_breaks() {
    for seed in 0..60 {
        let failure = soak::failure(&Script::random(seed, 2000), None);
        assert_eq!(failure, None, "seed {seed}; `sim soak` makes it smaller");
    }
}

#[test]
fn what_once_broke_does_not_any_more() {
    assert!(!kept().is_empty());
    for (name, script) in kept() {
        assert_eq!(soak::failure(&script, None), None, "{name}");
    }
}

#[test]
fn planted_defects_are_found_and_made_small() {
    for defect in Defect::ALL {
        let fails = |script: &Script| soak::failure(script, Some(defect)).is_some();
        let mut scripts = (0..5).map(|seed| Script::random(seed, 500));
        let script = scripts.find(fails).unwrap_or_else(|| panic!("{defect:?} was not found"));
        let small = soak::shrink(&script, fails);
        assert!(fails(&small));
        assert!(small.actions.len() < 40, "{defect:?}:\n{small}");
        // Without the defect there is nothing to find, or the script shows something else.
        assert_eq!(soak::failure(&small, None), None, "{defect:?}:\n{small}");
    }
}

#[test]
fn a_script_is_its_text() {
    for seed in 0..20 {
        let script = Script::random(seed, 100);
        assert_eq!(script.to_string().parse(), Ok(script));
    }
    let error = |text: &str| text.parse::<Script>().unwrap_err();
    assert_eq!(error("abort id=1"), "there is no line `setup`");
    assert_eq!(error("abort id=x"), "line 1: id=x is no number that fits");
    assert_eq!(error("\n# why\nleap"), "line 3: nothing is called `leap`");
}
