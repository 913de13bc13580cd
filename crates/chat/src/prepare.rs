//! Small changes to a template's source before it is compiled. Lines stay where they are.
//!
//! - `transformers` has a block tag `generation` that marks the assistant's text for training. For rendering it is a
//!   block that is always there.
//! - Every value that is assigned passes through a check (see [`crate::assigned`]).

use crate::assigned::{CHECK_ATTRIBUTE, CHECK_VARIABLE};

/// The template to compile.
pub(crate) fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let (taken, changed) = match tag.as_bytes().get(1) {
            Some(b'#') => (tag.find("#}").map(|at| at + 2), None),
            Some(b'{') => (end_of_tag(tag, "}}"), None),
            Some(b'%') => match end_of_tag(tag, "%}") {
                Some(end) => statement(&tag[2..end - 2], &tag[end..], end),
                None => (None, None),
            },
            // Just a brace.
            _ => (Some(1), None),
        };
        // What has no end is for the compiler to complain about.
        let taken = taken.unwrap_or(tag.len());
        match changed {
            Some(inner) => out.extend(["{%", &inner, "%}"]),
            None => out.push_str(&tag[..taken]),
        }
        rest = &tag[taken..];
    }
    out.push_str(rest);
    out
}

/// How much of the text belongs to a statement (`end`, or more for a raw block), and what replaces its inside.
fn statement(inner: &str, after: &str, end: usize) -> (Option<usize>, Option<String>) {
    let bare = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
    let changed = match bare {
        "raw" => return (end_of_raw(after).map(|len| end + len), None),
        "generation" => Some(inner.replacen("generation", "if true", 1)),
        "endgeneration" => Some(inner.replacen("endgeneration", "endif", 1)),
        _ => checked_assignment(bare).map(|assignment| inner.replacen(bare, &assignment, 1)),
    };
    (Some(end), changed)
}

/// `set target = value` with the value checked; `None` if the statement is another.
fn checked_assignment(statement: &str) -> Option<String> {
    let rest = statement.strip_prefix("set")?;
    let (target, value) = rest.split_once('=')?;
    let is_target = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.,()".contains(c);
    // Not a block, such as `set text | indent(width=4)`, and not a word that only begins like this one.
    if !target.starts_with(char::is_whitespace) || !target.chars().all(is_target) {
        return None;
    }
    let check = if target.contains('.') { CHECK_ATTRIBUTE } else { CHECK_VARIABLE };
    // Two pairs of parentheses, because a value may be `1, 2`.
    Some(format!("set{target}= {check}(({value}))"))
}

/// Where a tag that begins at the start of `text` ends. A string may contain what looks like the end.
fn end_of_tag(text: &str, end: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            _ if bytes[at..].starts_with(end.as_bytes()) => return Some(at + end.len()),
            _ => at += 1,
        }
    }
    None
}

/// Where a raw block ends, of which `text` is what follows its first tag.
fn end_of_raw(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(start) = text[at..].find("{%") {
        let inner = at + start + 2;
        let end = inner + text[inner..].find("%}")?;
        if text[inner..end].trim_matches(['-', '+']).trim() == "endraw" {
            return Some(end + 2);
        }
        at = inner;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &str) {
        let expect = expect.replace('V', CHECK_VARIABLE).replace('A', CHECK_ATTRIBUTE);
        assert_eq!(prepare(source), expect);
    }

    #[test]
    fn assignments_are_checked() {
        check("{% set x = 1 %}", "{% set x = V(( 1)) %}");
        check("{%- set ns.x = a == b -%}", "{%- set ns.x = A(( a == b)) -%}");
        check("{% set a, b = 1, 2 %}", "{% set a, b = V(( 1, 2)) %}");
        check("{%set x='%}='%}é", "{%set x= V(('%}='))%}é");
        check("{% set x = '\\'%}' %}", "{% set x = V(( '\\'%}')) %}");
    }

    #[test]
    fn all_else_stays() {
        for source in [
            "{% set x %}a{% endset %}",
            "{% set x | indent(width=4) %}a{% endset %}",
            "{% settle x = 1 %}",
            "{# {% set x = 1 %} #}",
            "{{ '{% set x = 1 %}' }}",
            "{% raw %}{% set x = 1 %}{%- endraw -%}",
            "{% if x == 1 %} { {% endif %}",
            "{% set x = 'no end %}",
            "{% set x = '\\",
            "{% raw %}{% set x = 1 %}",
            "{",
            "{%",
        ] {
            assert_eq!(prepare(source), source);
        }
    }

    #[test]
    fn generation_is_always_there() {
        check("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}");
        check("{% generationx %}", "{% generationx %}");
    }
}
