//! The template itself: compiled once, rendered for each request.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use minijinja::{
    Environment, ErrorKind, State, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value as JinjaValue},
};
use serde_json::{Map, Value, json};

use crate::{
    Error,
    assigned::add_checks,
    content::{ContentForms, normalise},
    json::{Style, dumps},
    prepare::prepare,
};

/// Work that one rendering may take; also bounds the memory it can allocate, at 64 bytes a unit.
const FUEL: u64 = 2_000_000;
/// Longest prompt text. The longest contexts served are about a million tokens of four bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Nesting of macros, loops and conditions. Templates need about ten; the stacks of servers' threads are small.
const RECURSION_MAX: usize = 120;

const CHAT: &str = "chat";
const TOOL_USE: &str = "tool_use";

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The model has a template of its own for requests with tools.
    has_tool_use: bool,
    forms: ContentForms,
}

/// What a rendering depends on besides the messages.
#[derive(Clone, Copy, Debug)]
pub struct RenderOptions<'a> {
    /// End the prompt with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tools the model may call: a JSON array of their descriptions.
    pub tools: Option<&'a Value>,
    /// Further variables for the template, such as `documents` or `enable_thinking`.
    pub extra: Option<&'a Map<String, Value>>,
    /// The time that `strftime_now` formats, in UTC.
    pub now: SystemTime,
}

impl RenderOptions<'_> {
    /// A prompt for the assistant's next turn, without tools.
    pub fn new(now: SystemTime) -> Self {
        Self { add_generation_prompt: true, tools: None, extra: None, now }
    }
}

impl ChatTemplate {
    /// Compiles a template. The texts of the special tokens may be empty.
    pub fn new(source: &str, bos_text: &str, eos_text: &str) -> Result<Self, Error> {
        Self::with_tool_use(source, None, bos_text, eos_text)
    }

    /// Reads the template of a model folder: `chat_template.jinja`, or else the `chat_template` in
    /// `chat_template.json` or `tokenizer_config.json`. `None` if the folder has no template.
    pub fn from_folder(dir: &Path, bos_text: &str, eos_text: &str) -> Result<Option<Self>, Error> {
        if let Some(source) = read_if_present(&dir.join("chat_template.jinja"))? {
            return Self::new(&source, bos_text, eos_text).map(Some);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            let Some(text) = read_if_present(&path)? else { continue };
            let bad = |problem: String| Error::File { path: path.clone(), problem };
            let config: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
            let (main, tool_use) = match config.get("chat_template") {
                None | Some(Value::Null) => continue,
                Some(Value::String(source)) => (source.as_str(), None),
                Some(Value::Array(named)) => {
                    let main = find_named(named, "default").ok_or_else(|| {
                        bad("\"chat_template\" is a list without a template named \"default\""
                            .to_owned())
                    })?;
                    (main, find_named(named, TOOL_USE))
                }
                Some(_) => {
                    return Err(bad("\"chat_template\" is neither a string nor a list".to_owned()));
                }
            };
            return Self::with_tool_use(main, tool_use, bos_text, eos_text).map(Some);
        }
        Ok(None)
    }

    fn with_tool_use(
        main: &str,
        tool_use: Option<&str>,
        bos_text: &str,
        eos_text: &str,
    ) -> Result<Self, Error> {
        let mut environment = environment()?;
        environment.add_global("bos_token", bos_text);
        environment.add_global("eos_token", eos_text);
        environment.add_template_owned(CHAT, prepare(main)).map_err(syntax_error)?;
        if let Some(source) = tool_use {
            environment.add_template_owned(TOOL_USE, prepare(source)).map_err(syntax_error)?;
        }
        let forms = ContentForms { text: true, parts: true };
        let mut template = Self { environment, has_tool_use: tool_use.is_some(), forms };
        template.forms = template.probe_forms();
        Ok(template)
    }

    /// Whether the template itself understands contents that are lists of parts. Where it does not, [`Self::render`]
    /// joins the parts to one text.
    pub fn takes_content_parts(&self) -> bool {
        self.forms.parts
    }

    /// The prompt for `messages`.
    pub fn render(&self, messages: &[Value], options: &RenderOptions<'_>) -> Result<String, Error> {
        let messages = messages
            .iter()
            .enumerate()
            .map(|(index, message)| {
                normalise(index, message, self.forms).map(|m| JinjaValue::from(Serde(m)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.render_prepared(messages, options)
    }

    fn render_prepared(
        &self,
        messages: Vec<JinjaValue>,
        options: &RenderOptions<'_>,
    ) -> Result<String, Error> {
        let now = options.now;
        // Python passes `None` for what is not given, and templates test for both.
        let mut variables = vec![
            ("tools".to_owned(), JinjaValue::from(())),
            ("documents".to_owned(), JinjaValue::from(())),
        ];
        let extra = options.extra.into_iter().flatten();
        variables.extend(extra.map(|(key, value)| (key.clone(), JinjaValue::from(Serde(value)))));
        variables.extend([
            ("messages".to_owned(), JinjaValue::from(messages)),
            ("add_generation_prompt".to_owned(), options.add_generation_prompt.into()),
            (
                "strftime_now".to_owned(),
                JinjaValue::from_function(move |f: &str| format_time(now, f)),
            ),
        ]);
        if let Some(tools) = options.tools {
            variables.push(("tools".to_owned(), JinjaValue::from(Serde(tools))));
        }
        let name = if self.has_tool_use && options.tools.is_some() { TOOL_USE } else { CHAT };
        let mut output = LimitedOutput { bytes: Vec::new(), exceeded: false };
        let rendered = self.environment.get_template(name).and_then(|template| {
            template
                .render_captured_to(
                    JinjaValue::from(variables.into_iter().collect::<BTreeMap<_, _>>()),
                    &mut output,
                )
                .map(drop)
        });
        if output.exceeded {
            return Err(Error::OutputTooLong { bytes_max: OUTPUT_BYTES_MAX });
        }
        rendered.map_err(render_error)?;
        Ok(String::from_utf8(output.bytes).expect("a template writes whole strings"))
    }

    /// Finds out which forms of content the template understands, by trying.
    fn probe_forms(&self) -> ContentForms {
        const PROBE: &str = "BRIGADE-PROBE";
        let understood = |content: Value| {
            let message = JinjaValue::from(Serde(json!({ "role": "user", "content": content })));
            let rendered = self.render_prepared(vec![message], &RenderOptions::new(UNIX_EPOCH));
            // A list that was not understood is either an error, or printed whole with its keys.
            rendered.is_ok_and(|text| {
                text.contains(PROBE)
                    && !text.contains(&format!("\": \"{PROBE}"))
                    && !text.contains(&format!("': '{PROBE}"))
            })
        };
        let parts = understood(json!([{ "type": "text", "text": PROBE }]));
        // A template that takes neither probe has demands of its own on roles; plain text is the best guess.
        ContentForms { text: !parts || understood(json!(PROBE)), parts }
    }
}

/// An environment with the settings and functions that `transformers` gives to templates.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(syntax_error)?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|output, state, value| match value {
        // As Python prints them.
        value if value.is_none() => output.write_str("None").map_err(minijinja::Error::from),
        value if value.kind() == minijinja::value::ValueKind::Bool => output
            .write_str(if value.is_true() { "True" } else { "False" })
            .map_err(minijinja::Error::from),
        value => minijinja::escape_formatter(output, state, value),
    });
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone())
                .with_source(Raised(message)))
        },
    );
    environment.add_filter("tojson", to_json);
    add_checks(&mut environment).map_err(syntax_error)?;
    Ok(environment)
}

/// Marks an error that the template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(
    state: &State<'_, '_>,
    value: &JinjaValue,
    indent: Option<JinjaValue>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let bad =
        |message: &str| minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned());
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<JinjaValue>>("indent")?,
    };
    let indent = match indent {
        Some(indent) if !indent.is_none() => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width =
                    usize::try_from(indent).map_err(|_| bad("tojson: indent is not a number"))?;
                if width > 16 {
                    return Err(bad("tojson: indent is over 16"));
                }
                " ".repeat(width)
            }
        }),
        _ => None,
    };
    let mut style = Style::new(indent);
    style.ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if let Some((item, key)) = options
        .get::<Option<Vec<String>>>("separators")?
        .map(|pair| match &pair[..] {
            [item, key] => Ok((item.clone(), key.clone())),
            _ => Err(bad("tojson: separators is not a pair")),
        })
        .transpose()?
    {
        style.item_separator = item;
        style.key_separator = key;
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| bad(&format!("tojson: {e}")))?;
    let text = dumps(&json, &style);
    // What a filter of our own makes is charged for only after the fact, so charge what it took to make.
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text)
}

fn format_time(now: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    let bad = |error: jiff::Error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"))
    };
    let timestamp = jiff::Timestamp::try_from(now).map_err(bad)?;
    jiff::fmt::strtime::format(format, &timestamp.to_zoned(jiff::tz::TimeZone::UTC)).map_err(bad)
}

/// Collects output up to the limit.
struct LimitedOutput {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl io::Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.exceeded = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn syntax_error(error: minijinja::Error) -> Error {
    Error::Syntax { line: error.line().unwrap_or(0), message: describe(&error) }
}

fn render_error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return Error::Raised { message: message.clone() };
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::OutOfFuel { fuel: FUEL };
    }
    Error::Render { line: error.line().unwrap_or(0), message: describe(&error) }
}

/// The error without the template's name and line, which the callers say in their own way.
fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn find_named<'a>(templates: &'a [Value], name: &str) -> Option<&'a str> {
    let found = templates.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name))?;
    found.get("template").and_then(Value::as_str)
}

fn read_if_present(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
