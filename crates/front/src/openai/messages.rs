//! The messages of a chat, checked for what every template relies on.
//!
//! What a part of a content is, and which form of it a template wants, is the business of the `chat` crate.

use serde_json::{Map, Value};

use crate::Error;

/// A message as sent: an object whose fields templates may use as they like.
pub(super) type Message = Map<String, Value>;

/// The messages as values for a template. Where there is no content there is an empty one, because most templates join
/// it to other text without a look.
pub(super) fn check(messages: Vec<Message>) -> Result<Vec<Value>, Error> {
    if messages.is_empty() {
        return Err(Error::field("messages", "is empty; at least one message is needed"));
    }
    let checked = messages.into_iter().enumerate().map(|(index, mut message)| {
        check_one(&mut message)
            .map_err(|(field, problem)| Error::field(format!("messages[{index}].{field}"), problem))
            .map(|()| Value::Object(message))
    });
    checked.collect()
}

fn check_one(message: &mut Message) -> Result<(), (&'static str, &'static str)> {
    let is_assistant = match message.get("role") {
        Some(Value::String(role)) if role.is_empty() => return Err(("role", "is empty")),
        Some(Value::String(role)) => role == "assistant",
        Some(_) => return Err(("role", "must be a string")),
        None => return Err(("role", "is missing")),
    };
    match message.get("content") {
        Some(Value::String(_) | Value::Array(_)) => {}
        None if !is_assistant => return Err(("content", "is missing")),
        None | Some(Value::Null) => {
            message.insert("content".into(), Value::String(String::new()));
        }
        Some(_) => return Err(("content", "must be a string, a list of text parts or null")),
    }
    match message.get("tool_calls") {
        None | Some(Value::Array(_)) => {}
        Some(Value::Null) => {
            message.shift_remove("tool_calls");
        }
        Some(_) => return Err(("tool_calls", "must be a list")),
    }
    Ok(())
}

/// The text that a message ends with, if it ends with text.
pub(super) fn last_text(message: &Value) -> Option<&str> {
    match &message["content"] {
        Value::String(text) => Some(text),
        Value::Array(parts) => match parts.last()? {
            Value::String(text) => Some(text),
            part => part["text"].as_str(),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(messages: Value) -> Result<Value, String> {
        let messages = serde_json::from_value(messages).unwrap();
        check(messages).map(Value::Array).map_err(|error| error.to_string())
    }

    #[test]
    fn missing_content_becomes_empty() {
        let messages = checked(json!([
            {"role": "system", "content": "a", "name": "kept"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": null},
            {"role": "assistant", "tool_calls": [{}]},
        ]));
        let expected = json!([
            {"role": "system", "content": "a", "name": "kept"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": [{}]},
        ]);
        assert_eq!(messages.unwrap(), expected);
    }

    #[test]
    fn errors_name_the_place() {
        for (messages, place) in [
            (json!([]), "`messages`"),
            (json!([{"content": "x"}]), "`messages[0].role`"),
            (json!([{"role": 1, "content": "x"}]), "`messages[0].role`"),
            (json!([{"role": "", "content": "x"}]), "`messages[0].role`"),
            (json!([{"role": "user", "content": "x"}, {"role": "user"}]), "`messages[1].content`"),
            (json!([{"role": "user", "content": 5}]), "`messages[0].content`"),
            (
                json!([{"role": "assistant", "content": "", "tool_calls": 1}]),
                "`messages[0].tool_calls`",
            ),
        ] {
            let error = checked(messages).unwrap_err();
            assert!(error.contains(place), "{error} should name {place}");
        }
    }

    #[test]
    fn the_last_text_is_found() {
        assert_eq!(last_text(&json!({"content": "a"})), Some("a"));
        let parts =
            json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        assert_eq!(last_text(&parts), Some("b"));
        assert_eq!(last_text(&json!({"content": []})), None);
    }
}
