//! The reference page of settings, made from the table.

use std::fmt::Write;

use super::table::{COMPATIBLE, Effect, Kind, SETTINGS};

const HEAD: &str = "\
# Settings

Made from the table in `crates/cli/src/settings/table.rs` by `brigade config reference`; a test keeps it true.

A flag wins over the environment, which wins over the file (`--config FILE` or `$BRIGADE_CONFIG`, TOML), which
wins over the default. `brigade config show` prints every value and where it came from.
";

/// The page as Markdown.
pub(crate) fn reference_page() -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section() != section {
            section = setting.section();
            let _ = write!(page, "\n## [{section}]\n");
        }
        let takes = match setting.kind {
            Kind::Text => "text".to_owned(),
            Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Number(min, max) => format!("a number from {min} to {max}"),
            Kind::Bytes(_) => {
                "a size in bytes; KiB, MiB, GiB, kB, MB and GB are understood".to_owned()
            }
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Switch => "true or false; the flag alone means true".to_owned(),
            Kind::List => "texts separated by commas".to_owned(),
        };
        let default = if setting.default.is_empty() { "none" } else { setting.default };
        let _ = write!(
            page,
            "\n### {}\n\n{}\n\nFlag `--{}`, environment `{}`; {takes}; default: {default}.",
            setting.name(),
            setting.help,
            setting.flag(),
            setting.variable(),
        );
        let aliases: Vec<String> = setting
            .flag_aliases
            .iter()
            .map(|flag| format!("`--{flag}`"))
            .chain(setting.env_aliases.iter().map(|name| format!("`${name}`")))
            .collect();
        if !aliases.is_empty() {
            let _ = write!(page, " Also understood: {}.", aliases.join(", "));
        }
        page.push('\n');
    }
    page.push_str("\n## Flags of other servers that are taken and set nothing\n\n");
    for compatible in COMPATIBLE {
        let effect = match compatible.effect {
            Effect::MustBeOne(what) => format!("must be 1: {what} is not there yet"),
            Effect::Switch(why) | Effect::Value(why) => why.to_owned(),
        };
        let _ = writeln!(page, "- `--{}`: {effect}", compatible.flag);
    }
    page
}
