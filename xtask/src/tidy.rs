//! The rules of the tree that no compiler checks: who may depend on whom, and how files look.

mod edges;
mod manifests;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Checks everything; the error lists what breaks a rule.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let problems = problems(workspace)?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{} rules broken:\n  {}", problems.len(), problems.join("\n  "))
}

fn problems(workspace: &Workspace) -> Result<Vec<String>> {
    let mut problems = edges::problems(&workspace.packages);
    let mut paths = Vec::new();
    files_below(&workspace.root, Path::new(""), &mut paths)?;
    paths.sort();
    for path in &paths {
        let full = workspace.root.join(path);
        if sources::has_rules(path) {
            let text =
                fs::read_to_string(&full).with_context(|| format!("reading {}", full.display()))?;
            problems.extend(sources::problems(path, &text));
        }
    }
    for package in &workspace.packages {
        let full = workspace.root.join(&package.manifest);
        let text =
            fs::read_to_string(&full).with_context(|| format!("reading {}", full.display()))?;
        problems.extend(manifests::problems(package, &text));
    }
    Ok(problems)
}

/// Collects the files of the tree, as paths from its root. Hidden folders and what is built are not part of it.
fn files_below(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(folder);
    let entries = fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", full.display()))?;
        let name = entry.file_name();
        let path = folder.join(&name);
        let kind = entry.file_type().with_context(|| format!("reading {}", path.display()))?;
        let is_left_out = name.to_string_lossy().starts_with('.') || name == "target";
        if kind.is_dir() && !is_left_out {
            files_below(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_tree_keeps_its_rules() {
        let broken = problems(&Workspace::open().unwrap()).unwrap();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    #[test]
    fn the_tree_is_walked_without_what_is_built() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/b/x.rs", "target/debug/y.rs", ".git/z.rs", "a/.hidden/w.rs", "v.rs"] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut found = Vec::new();
        files_below(folder.path(), Path::new(""), &mut found).unwrap();
        found.sort();
        assert_eq!(found, [PathBuf::from("a/b/x.rs"), PathBuf::from("v.rs")]);
    }

    #[test]
    fn a_planted_fault_is_found_in_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.rs"), "fn x() {}\n").unwrap();
        let workspace = Workspace {
            root: folder.path().to_owned(),
            target: PathBuf::new(),
            packages: Vec::new(),
        };
        assert_eq!(problems(&workspace).unwrap().len(), 1);
        assert!(check(&workspace).unwrap_err().to_string().contains("x.rs"));
    }
}
