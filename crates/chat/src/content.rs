//! Messages as clients send them, brought into the form that a template expects.
//!
//! Clients send `content` as a string or as a list of parts, and tool-call arguments as a string of JSON; most
//! templates know only string contents, and expect arguments as an object.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::Error;

/// Which forms of `content` a template understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentForms {
    pub(crate) text: bool,
    pub(crate) parts: bool,
}

/// The message in the form that a template with these `forms` expects. `index` is for errors.
pub(crate) fn normalise<'a>(
    index: usize,
    message: &'a Value,
    forms: ContentForms,
) -> Result<Cow<'a, Value>, Error> {
    let Some(map) = message.as_object() else {
        let problem = "is not an object";
        return Err(Error::Message { index, path: String::new(), problem });
    };
    let mut changed = Cow::Borrowed(map);
    match map.get("content") {
        Some(Value::Array(parts)) if !forms.parts => {
            let text = flatten(index, parts)?;
            changed.to_mut().insert("content".to_owned(), Value::String(text));
        }
        Some(Value::String(text)) if forms.parts && !forms.text => {
            let parts = json!([{ "type": "text", "text": text }]);
            changed.to_mut().insert("content".to_owned(), parts);
        }
        _ => {}
    }
    if let Some(calls) = map.get("tool_calls").and_then(Value::as_array) {
        let calls = calls.iter().map(parse_arguments).collect();
        changed.to_mut().insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(match changed {
        Cow::Borrowed(_) => Cow::Borrowed(message),
        Cow::Owned(map) => Cow::Owned(Value::Object(map)),
    })
}

/// The text of a list of content parts, one part a line.
fn flatten(index: usize, parts: &[Value]) -> Result<String, Error> {
    let texts: Vec<&str> = parts
        .iter()
        .enumerate()
        .map(|(part, value)| part_text(index, part, value))
        .collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

fn part_text(index: usize, part: usize, value: &Value) -> Result<&str, Error> {
    let problem = |field: &str, problem| Error::Message {
        index,
        path: format!(".content[{part}]{field}"),
        problem,
    };
    if let Value::String(text) = value {
        return Ok(text);
    }
    match value.get("type").and_then(Value::as_str) {
        Some("text" | "input_text" | "output_text") => value
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| problem(".text", "is not a string")),
        Some("refusal") => value
            .get("refusal")
            .and_then(Value::as_str)
            .ok_or_else(|| problem(".refusal", "is not a string")),
        Some(kind) => Err(Error::ContentPart { index, kind: kind.to_owned() }),
        None => Err(problem(".type", "is not a string")),
    }
}

/// The tool call with its arguments as an object, if they are the text of one.
fn parse_arguments(call: &Value) -> Value {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Value::String(text) = &*arguments
        && let Ok(parsed) = serde_json::from_str::<Map<String, Value>>(text)
    {
        *arguments = Value::Object(parsed);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT_ONLY: ContentForms = ContentForms { text: true, parts: false };
    const BOTH: ContentForms = ContentForms { text: true, parts: true };
    const PARTS_ONLY: ContentForms = ContentForms { text: false, parts: true };

    fn check(message: &Value, forms: ContentForms, expect: &Value) {
        assert_eq!(normalise(0, message, forms).expect("a good message").as_ref(), expect);
    }

    #[test]
    fn parts_become_text_only_where_the_template_needs_it() {
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]});
        let text = json!({"role": "user", "content": "a\nb"});
        check(&parts, TEXT_ONLY, &text);
        check(&parts, BOTH, &parts);
        check(&text, BOTH, &text);
        let wrapped = json!({"role": "user", "content": [{"type": "text", "text": "a\nb"}]});
        check(&text, PARTS_ONLY, &wrapped);
    }

    #[test]
    fn arguments_become_objects_if_they_are_objects() {
        let call = |arguments: Value| json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
        check(&call(json!("{\"a\": 1}")), TEXT_ONLY, &call(json!({"a": 1})));
        check(&call(json!("not JSON")), TEXT_ONLY, &call(json!("not JSON")));
        check(&call(json!("[1]")), TEXT_ONLY, &call(json!("[1]")));
    }

    #[test]
    fn errors_name_the_place() {
        for (message, expect) in [
            (json!("hi"), "messages[3] is not an object"),
            (json!({"content": [{"type": "text"}]}), "messages[3].content[0].text is not a string"),
            (json!({"content": ["a", {}]}), "messages[3].content[1].type is not a string"),
            (
                json!({"content": [{"type": "image_url"}]}),
                "messages[3].content: parts of type \"image_url\" are not supported by this model",
            ),
        ] {
            let error = normalise(3, &message, TEXT_ONLY).expect_err("a bad message");
            assert_eq!(error.to_string(), expect);
        }
    }
}
