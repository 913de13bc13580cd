//! What every manifest says.

use crate::workspace::Package;

/// What is wrong with a package's manifest, of which `text` is the text.
pub(super) fn problems(package: &Package, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let path = package.manifest.display();
    if !package.is_described {
        problems.push(format!("{path}: there is no `description`"));
    }
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![format!("{path}: {error}")],
    };
    if inherited(&table, "lints") != Some(true) {
        problems.push(format!("{path}: `lints.workspace = true` is missing"));
    }
    let about = table.get("package").and_then(toml::Value::as_table);
    for field in ["edition", "rust-version", "license", "publish"] {
        if about.and_then(|about| inherited(about, field)) != Some(true) {
            problems.push(format!("{path}: `package.{field}.workspace = true` is missing"));
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let dependencies = table.get(section).and_then(toml::Value::as_table);
        for (name, _) in dependencies.into_iter().flatten() {
            if dependencies.and_then(|all| inherited(all, name)) != Some(true) {
                problems.push(format!(
                    "{path}: `{name}` takes its version elsewhere than from the workspace"
                ));
            }
        }
    }
    problems
}

/// Whether `key` is inherited from the workspace.
fn inherited(table: &toml::Table, key: &str) -> Option<bool> {
    table.get(key)?.get("workspace")?.as_bool()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "\
[package]
name = \"x\"
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true
[dependencies]
a.workspace = true
b = { workspace = true, features = [\"c\"] }
[lints]
workspace = true
";

    fn problems_in(text: &str) -> Vec<String> {
        let package = Package { name: "x".into(), is_described: true, ..Package::default() };
        problems(&package, text)
    }

    #[test]
    fn a_sound_manifest_has_no_problem() {
        assert_eq!(problems_in(SOUND), [] as [String; 0]);
    }

    #[test]
    fn planted_faults_are_found() {
        for (sound, broken) in [
            ("[lints]\nworkspace = true", "[lints]\nworkspace = false"),
            ("[lints]\nworkspace = true", ""),
            ("license.workspace = true", "license = \"MIT\""),
            ("a.workspace = true", "a = \"1.0\""),
            ("b = { workspace = true", "b = { version = \"1\""),
            ("[package]", "[package"),
        ] {
            assert!(SOUND.contains(sound));
            assert_eq!(problems_in(&SOUND.replace(sound, broken)).len(), 1, "{broken}");
        }
        let nameless = Package::default();
        assert!(problems(&nameless, SOUND)[0].contains("description"));
    }
}
