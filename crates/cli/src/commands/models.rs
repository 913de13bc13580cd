//! `brigade models`: what is cached.

use anyhow::Result;

use crate::{
    load::{bytes, resolver},
    settings::Settings,
};

/// Lists the caches and the aliases.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let resolver = resolver(settings)?;
    let cached = resolver.cached()?;
    let width = cached.iter().map(|model| model.name.len()).max().unwrap_or(0);
    for model in &cached {
        println!("{:width$}  {:>10}  {}", model.name, bytes(model.bytes), model.path.display());
    }
    if cached.is_empty() {
        println!("no model is cached");
    }
    let aliases: Vec<&str> = resolver.aliases().iter().map(|alias| &*alias.name).collect();
    println!("\naliases: {}", aliases.join(", "));
    Ok(())
}
