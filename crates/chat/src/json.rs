//! JSON as Python's `json.dumps` writes it, because tools and arguments were in that form when the model was trained.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The arguments of `json.dumps` that templates use.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) ensure_ascii: bool,
    /// One level of indentation; `None` writes one line.
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
}

impl Style {
    /// The defaults that `transformers` gives to `tojson`, for an indentation.
    pub(crate) fn new(indent: Option<String>) -> Self {
        // Python drops the space after a comma when a line break follows.
        let item_separator = if indent.is_some() { "," } else { ", " }.to_owned();
        let key_separator = ": ".to_owned();
        Self { ensure_ascii: false, indent, item_separator, key_separator, sort_keys: false }
    }
}

/// Writes `value` in `style`.
pub(crate) fn dumps(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write_value(value, style, 0, &mut out);
    out
}

fn write_value(value: &Value, style: &Style, level: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, style, out),
        Value::Array(items) => {
            let write_item = |item: &&Value, out: &mut String| {
                write_value(item, style, level + 1, out);
            };
            write_all(items.iter(), ('[', ']'), style, level, out, write_item);
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if style.sort_keys {
                entries.sort_by_key(|(key, _)| *key);
            }
            let write_entry = |(key, item): &(&String, &Value), out: &mut String| {
                write_string(key, style, out);
                out.push_str(&style.key_separator);
                write_value(item, style, level + 1, out);
            };
            write_all(entries.into_iter(), ('{', '}'), style, level, out, write_entry);
        }
    }
}

fn write_all<T>(
    items: impl ExactSizeIterator<Item = T>,
    (open, close): (char, char),
    style: &Style,
    level: usize,
    out: &mut String,
    write_one: impl Fn(&T, &mut String),
) {
    let empty = items.len() == 0;
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        break_line(style, level + 1, out);
        write_one(&item, out);
    }
    if !empty {
        break_line(style, level, out);
    }
    out.push(close);
}

fn break_line(style: &Style, level: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), level));
    }
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => write_escape(u32::from(character) as u16, out),
            // Python escapes DEL too when it keeps to ASCII.
            '\u{7f}'.. if style.ensure_ascii => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write_escape(*unit, out);
                }
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

fn write_escape(unit: u16, out: &mut String) {
    write!(out, "\\u{unit:04x}").expect("writing to a String cannot fail");
}

/// Integers as they are; others as Python's `repr` of a float, which differs from Rust in where the exponent starts.
fn write_number(number: &Number, out: &mut String) {
    match number.as_f64() {
        Some(float) if number.is_f64() => {
            let scientific = format!("{float:e}");
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            let power: i32 = exponent.parse().unwrap_or(0);
            if (-4..16).contains(&power) {
                write!(out, "{float:?}").expect("writing to a String cannot fail");
            } else {
                let sign = if power < 0 { '-' } else { '+' };
                write!(out, "{digits}e{sign}{:02}", power.abs())
                    .expect("writing to a String cannot fail");
            }
        }
        _ => write!(out, "{number}").expect("writing to a String cannot fail"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: Value, indent: Option<&str>, expect: &str) {
        assert_eq!(dumps(&value, &Style::new(indent.map(str::to_owned))), expect);
    }

    #[test]
    fn one_line_has_pythons_separators_and_keeps_key_order() {
        check(
            json!({"b": 1, "a": [true, null, "é\n"]}),
            None,
            r#"{"b": 1, "a": [true, null, "é\n"]}"#,
        );
        check(json!({"b": [], "a": {}}), None, r#"{"b": [], "a": {}}"#);
    }

    #[test]
    fn indented() {
        check(
            json!({"a": [1, {}], "b": []}),
            Some("  "),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
        );
    }

    #[test]
    fn strings_are_escaped_as_python_does() {
        check(json!("\"\\\u{8}\u{c}\u{1}\u{7f}</é>"), None, "\"\\\"\\\\\\b\\f\\u0001\u{7f}</é>\"");
        let ascii = Style { ensure_ascii: true, ..Style::new(None) };
        assert_eq!(dumps(&json!("é😀\u{7f}"), &ascii), r#""\u00e9\ud83d\ude00\u007f""#);
    }

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, expect) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
        ] {
            check(json!(value), None, expect);
        }
        check(json!(18_446_744_073_709_551_615_u64), None, "18446744073709551615");
    }

    #[test]
    fn keys_can_be_sorted() {
        let sorted = Style { sort_keys: true, ..Style::new(None) };
        assert_eq!(dumps(&json!({"b": 1, "a": 2}), &sorted), r#"{"a": 2, "b": 1}"#);
    }
}
