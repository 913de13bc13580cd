//! How files look.

use std::path::Path;

const COLUMNS_MAX: usize = 120;
const LINES_MAX: usize = 700;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// The only files that may switch the lint against unsafe code off: for three crates, one module, a test that launches
/// a kernel of its own, and an allocator that counts for tests.
const UNSAFE_FILES: &[&str] = &[
    "crates/cuda/src/lib.rs",
    "crates/cuda/tests/it/faults.rs",
    "crates/device/src/lib.rs",
    "crates/kernels/src/lib.rs",
    "crates/weights/src/mapping.rs",
    "dev/fuzz/tests/it/memory.rs",
];

/// Notes to self, which belong into the issue tracker. Put together here, so that this file passes.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Whether there are rules for a file.
pub(super) fn has_rules(path: &Path) -> bool {
    matches!(extension(path), "rs" | "py" | "toml" | "md")
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// What is wrong with a file, by line.
pub(super) fn problems(path: &Path, text: &str) -> Vec<String> {
    let is_rust = extension(path) == "rs";
    let is_code = is_rust || extension(path) == "py";
    let mut problems = Vec::new();
    let mut add = |line: usize, problem: &str| {
        problems.push(format!("{}:{line}: {problem}", path.display()));
    };
    if is_rust && !text.starts_with("//!") {
        add(1, "the first line says what the file is for, as `//!`");
    }
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        add(text.lines().count(), "a file ends with one line feed");
    }
    for (index, line) in text.split_terminator('\n').enumerate() {
        let number = index + 1;
        if line.contains('\t') {
            add(number, "there is a tab");
        }
        if line.ends_with([' ', '\r']) {
            add(number, "there is white space at the end");
        }
        // A text is best left in one piece, and the formatter leaves it so.
        if is_rust && !line.contains('"') && line.chars().count() > COLUMNS_MAX {
            add(number, &format!("the line is longer than {COLUMNS_MAX} columns"));
        }
        if is_code && let Some(note) = NOTES.iter().find(|note| line.contains(*note)) {
            add(number, &format!("{note}: open an issue instead"));
        }
        if is_rust
            && allows_unsafe(line)
            && !UNSAFE_FILES.iter().any(|file| path == Path::new(file))
        {
            add(number, "unsafe code belongs into kernels, device and the mapping of files");
        }
    }
    let lines = text.lines().count();
    let exemption = LONG_FILES.iter().find(|(file, _)| path == Path::new(file));
    match exemption {
        None if is_rust && lines > LINES_MAX => {
            add(
                lines,
                &format!("the file is longer than {LINES_MAX} lines; split it by reason to exist"),
            );
        }
        Some((_, reason)) if lines <= LINES_MAX => {
            add(lines, &format!("the file is short again; end its exemption ({reason})"));
        }
        _ => {}
    }
    problems
}

/// Whether a line names the lint against unsafe code, as only an attribute that switches it off does.
fn allows_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line).trim();
    // The lint's name stands alone, or after the bracket of a one-line attribute; a string with it starts with a quote.
    let name = concat!("unsafe", "_code");
    code.starts_with(name) || (code.starts_with("#") && code.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_in(path: &str, text: &str) -> Vec<String> {
        problems(Path::new(path), text)
    }

    #[test]
    fn a_sound_file_has_no_problem() {
        let text = format!("//! What it is for.\n\nfn x() {{}} // {}\n", "é".repeat(100));
        assert_eq!(problems_in("crates/a/src/lib.rs", &text), [] as [String; 0]);
        assert_eq!(
            problems_in("crates/a/src/lib.rs", "//! x\n".repeat(700).as_str()),
            [] as [String; 0]
        );
    }

    #[test]
    fn planted_faults_are_found_with_their_lines() {
        let long = "x".repeat(121);
        let note = format!("// {}: later", NOTES[0]);
        let one_line = concat!("#![allow(unsafe", "_code, reason = \"x\")]");
        let many_lines = concat!("#![expect(\n    unsafe", "_code,\n    reason = \"x\"\n)]");
        for (fault, line) in [
            ("let x =\t1;", 2),
            ("let x = 1; ", 2),
            ("let x = 1;\r", 2),
            (long.as_str(), 2),
            (note.as_str(), 2),
            (one_line, 2),
            (many_lines, 3),
            ("", 2),
        ] {
            let found = problems_in("crates/a/src/lib.rs", &format!("//! X.\n{fault}\n"));
            assert_eq!(found.len(), 1, "{fault:?}: {found:?}");
            assert!(found[0].starts_with(&format!("crates/a/src/lib.rs:{line}: ")), "{found:?}");
        }
        assert_eq!(problems_in("x.rs", "fn x() {}\n").len(), 1);
        assert_eq!(problems_in("x.rs", "//! no line feed").len(), 1);
        assert_eq!(problems_in("x.rs", &"//! x\n".repeat(701)).len(), 1);
        assert_eq!(problems_in("x.py", &format!("# {}\n", NOTES[1])).len(), 1);
        assert_eq!(problems_in("x.md", "two spaces  \n").len(), 1);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let text = concat!("//! X.\n#![allow(unsafe", "_code, reason = \"x\")]\n");
        for path in UNSAFE_FILES {
            assert_eq!(problems_in(path, text), [] as [String; 0]);
        }
        assert_eq!(problems_in("crates/device/src/cpu/mod.rs", text).len(), 1);
        assert_eq!(problems_in("x.rs", concat!("//! On unsafe", "_code.\n")), [] as [String; 0]);
    }

    #[test]
    fn rules_are_for_text_that_people_write() {
        assert!(
            ["a.rs", "a/b.py", "Cargo.toml", "README.md"]
                .iter()
                .all(|path| has_rules(Path::new(path)))
        );
        assert!(
            ["Cargo.lock", "a.json", "a.gguf", "run"]
                .iter()
                .all(|path| !has_rules(Path::new(path)))
        );
    }
}
