//! Checks on the values that a template assigns.
//!
//! The engine prints, compares and drops values by recursion, and so would overflow the stack of a value that is very
//! deep, or that contains itself. Values only grow deep step by step, through variables; and only a namespace can come
//! to contain itself, because nothing else can be changed. So it is enough to look at what is assigned.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{ValueKind, ValueOrKwargs},
};

/// The check of what a variable is set to. Names that no template has by chance.
pub(crate) const CHECK_VARIABLE: &str = "__checked_variable";
/// The check of what an attribute of a namespace is set to.
pub(crate) const CHECK_ATTRIBUTE: &str = "__checked_attribute";

/// The deepest value that may be assigned. Messages and tools come as JSON, which has a limit of its own, of 128.
const DEPTH_MAX: usize = 192;
/// Looking at this many values costs one unit of work.
const VALUES_PER_FUEL: u64 = 16;

/// Adds the functions that [`crate::prepare`] puts into templates.
pub(crate) fn add_checks(environment: &mut Environment<'static>) -> Result<(), Error> {
    // The engine does not name the type.
    let namespace = minijinja::functions::namespace(None::<ValueOrKwargs>)?;
    let namespace_type = namespace.as_object().map(|object| object.type_name());
    let is_namespace =
        move |value: &Value| value.as_object().map(|o| o.type_name()) == namespace_type;
    environment.add_function(CHECK_VARIABLE, |state: &State<'_, '_>, value: Value| {
        check(state, value, &|_| false)
    });
    environment.add_function(CHECK_ATTRIBUTE, move |state: &State<'_, '_>, value: Value| {
        check(state, value, &is_namespace)
    });
    Ok(())
}

/// The value, if it is not too deep and nothing in it is `forbidden`.
fn check(
    state: &State<'_, '_>,
    value: Value,
    forbidden: &dyn Fn(&Value) -> bool,
) -> Result<Value, Error> {
    // What is computed only when looked at becomes what it is, so that there is something to look at.
    let value = match value.kind() {
        ValueKind::Iterable => Value::from(value.try_iter()?.collect::<Vec<Value>>()),
        _ => value,
    };
    let mut looked_at = 0;
    look(&value, 0, &mut looked_at, forbidden)?;
    state.consume_fuel(looked_at / VALUES_PER_FUEL)?;
    Ok(value)
}

fn look(
    value: &Value,
    depth: usize,
    looked_at: &mut u64,
    forbidden: &dyn Fn(&Value) -> bool,
) -> Result<(), Error> {
    let refused = |message: &'static str| Err(Error::new(ErrorKind::InvalidOperation, message));
    *looked_at += 1;
    if forbidden(value) {
        return refused("a namespace cannot be kept in a namespace");
    }
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Ok(());
    }
    if depth == DEPTH_MAX {
        return refused("the value is nested too deeply");
    }
    for item in value.try_iter()? {
        let item = if kind == ValueKind::Map { value.get_item(&item)? } else { item };
        look(&item, depth + 1, looked_at, forbidden)?;
    }
    Ok(())
}
