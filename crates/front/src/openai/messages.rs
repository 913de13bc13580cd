//! The messages of a chat, brought into the form that chat templates expect.
//!
//! Templates are written for messages whose content is a string and whose tool-call arguments are objects. OpenAI
//! clients also send lists of text parts, null, and arguments as a string of JSON.

use serde_json::{Map, Value};

use crate::Error;

/// A message as sent: an object whose fields templates may use as they like.
pub(super) type Message = Map<String, Value>;

/// Checks and simplifies messages.
pub(super) fn normalise(messages: Vec<Message>) -> Result<Vec<Value>, Error> {
    if messages.is_empty() {
        return Err(Error::field("messages", "is empty; at least one message is needed"));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| Ok(Value::Object(normalise_one(index, message)?)))
        .collect()
}

fn normalise_one(index: usize, mut message: Message) -> Result<Message, Error> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let role = match message.get("role") {
        Some(Value::String(role)) if !role.is_empty() => role.clone(),
        Some(Value::String(_)) => return Err(Error::field(field("role"), "is empty")),
        Some(_) => return Err(Error::field(field("role"), "must be a string")),
        None => return Err(Error::field(field("role"), "is missing")),
    };
    let content = match message.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of_parts(&field("content"), parts)?,
        Some(Value::Null) => String::new(),
        None if role == "assistant" => String::new(),
        None => return Err(Error::field(field("content"), "is missing")),
        Some(_) => {
            let message = "must be a string, a list of text parts or null";
            return Err(Error::field(field("content"), message));
        }
    };
    message.insert("content".into(), Value::String(content));
    match message.get_mut("tool_calls") {
        None => {}
        Some(Value::Null) => {
            message.remove("tool_calls");
        }
        Some(Value::Array(calls)) => {
            for (position, call) in calls.iter_mut().enumerate() {
                arguments_as_object(&field(&format!("tool_calls[{position}]")), call)?;
            }
        }
        Some(_) => return Err(Error::field(field("tool_calls"), "must be a list")),
    }
    Ok(message)
}

fn text_of_parts(field: &str, parts: Vec<Value>) -> Result<String, Error> {
    let texts = parts.into_iter().enumerate().map(|(index, part)| {
        let field = format!("{field}[{index}]");
        match part {
            Value::String(text) => Ok(text),
            Value::Object(mut part) => match (part.remove("type"), part.remove("text")) {
                (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => {
                    Ok(text)
                }
                (Some(Value::String(kind)), _) if kind == "text" => {
                    Err(Error::field(format!("{field}.text"), "must be a string"))
                }
                (Some(Value::String(kind)), _) => Err(Error::field(
                    format!("{field}.type"),
                    format!("`{kind}` is not supported by this model; only `text` is"),
                )),
                _ => Err(Error::field(format!("{field}.type"), "must be a string")),
            },
            _ => Err(Error::field(field, "must be an object with `type` and `text`")),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn arguments_as_object(field: &str, call: &mut Value) -> Result<(), Error> {
    let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
        return Err(Error::field(format!("{field}.function"), "must be an object"));
    };
    let Some(Value::String(text)) = function.get("arguments") else { return Ok(()) };
    let text = if text.trim().is_empty() { "{}" } else { text };
    let arguments: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        let message = format!("is not the text of a JSON object: {error}");
        Error::field(format!("{field}.function.arguments"), message)
    })?;
    function.insert("arguments".into(), Value::Object(arguments));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn normalised(messages: Value) -> Result<Vec<Value>, String> {
        let messages = serde_json::from_value(messages).unwrap();
        normalise(messages).map_err(|error| error.to_string())
    }

    #[test]
    fn content_becomes_one_string() {
        let messages = normalised(json!([
            {"role": "system", "content": "a", "name": "kept"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, "c"]},
            {"role": "assistant", "content": null},
            {"role": "assistant"},
        ]));
        let expected = json!([
            {"role": "system", "name": "kept", "content": "a"},
            {"role": "user", "content": "b\nc"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": ""},
        ]);
        assert_eq!(Value::Array(messages.unwrap()), expected);
    }

    #[test]
    fn arguments_become_objects() {
        let call = |arguments: &str| {
            json!([{"role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}])
        };
        let messages = normalised(call("{\"x\": 1}")).unwrap();
        assert_eq!(messages[0]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        let messages = normalised(call("")).unwrap();
        assert_eq!(messages[0]["tool_calls"][0]["function"]["arguments"], json!({}));
        let error = normalised(call("{")).unwrap_err();
        assert!(error.contains("messages[0].tool_calls[0].function.arguments"), "{error}");
    }

    #[test]
    fn errors_name_the_place() {
        for (messages, place) in [
            (json!([]), "`messages`"),
            (json!([{"content": "x"}]), "`messages[0].role`"),
            (json!([{"role": 1, "content": "x"}]), "`messages[0].role`"),
            (json!([{"role": "", "content": "x"}]), "`messages[0].role`"),
            (json!([{"role": "user"}]), "`messages[0].content`"),
            (json!([{"role": "user", "content": 5}]), "`messages[0].content`"),
            (json!([{"role": "user", "content": [5]}]), "`messages[0].content[0]`"),
            (json!([{"role": "user", "content": [{}]}]), "`messages[0].content[0].type`"),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "`messages[0].content[0].text`",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "`messages[0].content[0].type`",
            ),
            (json!([{"role": "assistant", "tool_calls": 1}]), "`messages[0].tool_calls`"),
            (json!([{"role": "assistant", "tool_calls": [1]}]), "tool_calls[0].function`"),
        ] {
            let error = normalised(messages).unwrap_err();
            assert!(error.contains(place), "{error} should name {place}");
        }
    }
}
