//! `brigade chat`: a conversation in the terminal.

use std::io::Write;

use anyhow::Result;
use clap::ArgMatches;
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::{
    client::{Client, Piece},
    progress::note,
    settings::Settings,
};

const HELP: &str = "/reset starts over, /system TEXT sets the system message, /quit or Ctrl-D ends; \
                    Ctrl-C stops an answer";

/// Talks until the person has had enough.
pub(crate) fn run(settings: &Settings, matches: &ArgMatches) -> Result<()> {
    telemetry::logs::init(telemetry::logs::LogFormat::Text, "warn")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let url = matches.get_one::<String>("url").map(String::as_str);
    let model = super::model(matches).or(settings.named("model.model"));
    let client = Client::connect(&runtime, settings, url, model)?;
    let place = if client.is_local() { "in this process" } else { "on the server" };
    note(&format!("chatting with {} {place}; {HELP}", client.model()));
    let mut conversation = Conversation::new(matches.get_one::<String>("system").cloned());
    let fields = super::sampling_fields(matches);
    let mut editor = DefaultEditor::new()?;
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                let line = line.trim();
                // History is a convenience; without it the chat goes on.
                let _ = editor.add_history_entry(line);
                match Input::parse(line) {
                    Input::Nothing => {}
                    Input::Quit => return Ok(()),
                    Input::Unknown(command) => note(&format!("there is no {command}; {HELP}")),
                    Input::Reset => {
                        conversation.reset();
                        note("starting over");
                    }
                    Input::System(text) => {
                        conversation = Conversation::new(Some(text.to_owned()));
                        note("starting over with this system message");
                    }
                    Input::Message(text) => {
                        conversation.turn(&runtime, &client, text, &fields)?;
                    }
                }
            }
            Err(ReadlineError::Interrupted) => note("(Ctrl-D or /quit ends the chat)"),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a person typed.
#[derive(Debug, PartialEq)]
enum Input<'a> {
    Nothing,
    Quit,
    Reset,
    System(&'a str),
    Unknown(&'a str),
    Message(&'a str),
}

impl<'a> Input<'a> {
    fn parse(line: &'a str) -> Self {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" => Self::Nothing,
            "/quit" | "/exit" | "/bye" => Self::Quit,
            "/reset" => Self::Reset,
            "/system" => Self::System(rest.trim()),
            // A path or a lone slash is a message; a word after the slash was meant as a command.
            _ if word.len() > 1 && word.starts_with('/') && !word[1..].contains('/') => {
                Self::Unknown(word)
            }
            _ => Self::Message(line),
        }
    }
}

/// The messages so far.
struct Conversation {
    system: Option<String>,
    messages: Vec<Value>,
}

impl Conversation {
    fn new(system: Option<String>) -> Self {
        let mut conversation = Self { system, messages: Vec::new() };
        conversation.reset();
        conversation
    }

    fn reset(&mut self) {
        self.messages.clear();
        if let Some(text) = self.system.as_deref().filter(|text| !text.is_empty()) {
            self.messages.push(json!({ "role": "system", "content": text }));
        }
    }

    /// One question and its answer, printed as it comes. What was said until Ctrl-C stays in the conversation; a turn
    /// that failed does not.
    fn turn(
        &mut self,
        runtime: &Runtime,
        client: &Client,
        text: &str,
        fields: &Map<String, Value>,
    ) -> Result<()> {
        self.messages.push(json!({ "role": "user", "content": text }));
        let mut pieces = client.chat(&self.messages, fields);
        let mut answer = String::new();
        let mut out = std::io::stdout();
        let failure = runtime.block_on(async {
            loop {
                tokio::select! {
                    piece = pieces.recv() => match piece {
                        Some(Piece::Text(text)) => {
                            out.write_all(text.as_bytes())?;
                            out.flush()?;
                            answer.push_str(&text);
                        }
                        Some(Piece::End) | None => return Ok(None),
                        Some(Piece::Failed(error)) => return Ok(Some(error)),
                    },
                    _ = tokio::signal::ctrl_c() => return anyhow::Ok(None),
                }
            }
        })?;
        writeln!(out)?;
        if let Some(error) = failure {
            note(&format!("{error:#}"));
        }
        if answer.is_empty() {
            self.messages.pop();
        } else {
            self.messages.push(json!({ "role": "assistant", "content": answer }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        assert_eq!(Input::parse(""), Input::Nothing);
        assert_eq!(Input::parse("/system be brief "), Input::System("be brief"));
        assert_eq!(Input::parse("/reset"), Input::Reset);
        assert_eq!(Input::parse("/rest now"), Input::Unknown("/rest"));
        assert_eq!(Input::parse("/etc/passwd is what?"), Input::Message("/etc/passwd is what?"));
        assert_eq!(Input::parse("hello there"), Input::Message("hello there"));
    }

    #[test]
    fn reset_keeps_the_system_message() {
        let mut conversation = Conversation::new(Some("Be brief.".into()));
        conversation.messages.push(json!({ "role": "user", "content": "Hi" }));
        conversation.reset();
        assert_eq!(conversation.messages, [json!({ "role": "system", "content": "Be brief." })]);
        assert_eq!(Conversation::new(Some(String::new())).messages, Vec::<Value>::new());
    }
}
