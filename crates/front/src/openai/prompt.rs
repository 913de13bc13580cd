//! The prompt of a chat: from messages through the model's template to tokens.

use std::time::SystemTime;

use chat::RenderOptions;
use serde::Deserialize;
use serde_json::{Map, Value};
use types::TokenId;

use super::messages::{self, Message};
use crate::{Error, state::ServedModel};

/// The fields that make the prompt, as sent.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatPrompt {
    messages: Option<Vec<Message>>,
    tools: Option<Vec<Map<String, Value>>>,
    tool_choice: Option<Value>,
    documents: Option<Vec<Value>>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
    chat_template: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// The same, checked.
#[derive(Debug)]
pub(crate) struct CheckedPrompt {
    messages: Vec<Value>,
    tools: Option<Value>,
    extra: Map<String, Value>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    add_special_tokens: bool,
}

impl ChatPrompt {
    /// Checks what can be checked without the model.
    pub(crate) fn check(self) -> Result<CheckedPrompt, Error> {
        let Some(messages) = self.messages else {
            return Err(Error::field("messages", "is missing"));
        };
        let messages = messages::check(messages)?;
        let continue_final_message = self.continue_final_message.unwrap_or(false);
        let add_generation_prompt = self.add_generation_prompt.unwrap_or(!continue_final_message);
        if continue_final_message && add_generation_prompt {
            let message = "cannot be combined with `add_generation_prompt`: true";
            return Err(Error::field("continue_final_message", message));
        }
        if self.chat_template.is_some() {
            let message = "a request cannot bring its own template; the model's is used";
            return Err(Error::NotSupported { field: "chat_template", message: message.into() });
        }
        let tools_offered = offers_tools(self.tool_choice.as_ref())?;
        let tools = self.tools.filter(|tools| tools_offered && !tools.is_empty());
        let mut extra = self.chat_template_kwargs.unwrap_or_default();
        if let Some(documents) = self.documents {
            extra.insert("documents".into(), Value::Array(documents));
        }
        Ok(CheckedPrompt {
            messages,
            tools: tools.map(|tools| tools.into_iter().map(Value::Object).collect()),
            extra,
            add_generation_prompt,
            continue_final_message,
            add_special_tokens: self.add_special_tokens.unwrap_or(false),
        })
    }
}

/// Whether the template is told about the tools. Tool calls are not parsed out of answers yet, so nothing that promises
/// one can be kept.
fn offers_tools(choice: Option<&Value>) -> Result<bool, Error> {
    match choice {
        None => Ok(true),
        Some(Value::String(choice)) if choice == "auto" => Ok(true),
        Some(Value::String(choice)) if choice == "none" => Ok(false),
        Some(_) => Err(Error::NotSupported {
            field: "tool_choice",
            message: "only `auto` and `none` are supported yet".into(),
        }),
    }
}

impl CheckedPrompt {
    /// The prompt's tokens.
    pub(crate) fn tokens(
        &self,
        model: &ServedModel,
        now: SystemTime,
    ) -> Result<Vec<TokenId>, Error> {
        let text = self.render(model, now)?;
        model.tokenizer.encode(&text, self.add_special_tokens).map_err(|e| Error::Fault(e.into()))
    }

    fn render(&self, model: &ServedModel, now: SystemTime) -> Result<String, Error> {
        let Some(template) = &model.chat else {
            return Err(Error::field(
                "model",
                format!("`{}` has no chat template; use /v1/completions", model.name()),
            ));
        };
        let options = RenderOptions {
            add_generation_prompt: self.add_generation_prompt,
            tools: self.tools.as_ref(),
            extra: Some(&self.extra),
            now,
        };
        let mut text =
            template.render(&self.messages, &options).map_err(|e| Error::Fault(e.into()))?;
        if self.continue_final_message {
            let content = self.messages.last().and_then(messages::last_text);
            text.truncate(end_of(&text, content.unwrap_or_default())?);
        }
        Ok(text)
    }
}

/// Where the last message's own text ends. Templates may trim messages and put marks behind them.
fn end_of(text: &str, content: &str) -> Result<usize, Error> {
    let at_end = |content: &str| text.rfind(content).map(|start| start + content.len());
    let end = if content.trim().is_empty() { None } else { at_end(content) };
    end.or_else(|| Some(content.trim()).filter(|c| !c.is_empty()).and_then(at_end)).ok_or_else(
        || {
            let message = "the last message has no text that could go on";
            Error::field("continue_final_message", message)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_goes_on_ends_at_its_own_text() {
        assert_eq!(end_of("<a>hi</a><b>the sky </b>", "the sky ").unwrap(), 20);
        // Trimmed by the template.
        assert_eq!(end_of("<a>hi</a><b>the sky</b>", "the sky ").unwrap(), 19);
        assert!(end_of("<a>hi</a><b></b>", " ").is_err());
        assert!(end_of("<a>hi</a>", "gone").is_err());
    }

    #[test]
    fn tool_choice_is_honest() {
        let prompt = |choice: &str| {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":"x"}}],
                    "tools":[{{"type":"function"}}],"tool_choice":{choice}}}"#
            );
            crate::json::parse::<ChatPrompt>(body.as_bytes()).unwrap().check()
        };
        assert!(prompt("null").unwrap().tools.is_some());
        assert!(prompt("\"auto\"").unwrap().tools.is_some());
        assert!(prompt("\"none\"").unwrap().tools.is_none());
        assert!(prompt("\"required\"").is_err());
        assert!(prompt(r#"{"type":"function","function":{"name":"f"}}"#).is_err());
    }
}
