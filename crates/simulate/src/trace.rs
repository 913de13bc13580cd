//! Who asks for what, and when: traces as CSV or JSON lines.
//!
//! A line is a request. Its fields: `at_s` (seconds from the start), `prompt_tokens`, `output_tokens`, and, where they
//! matter, `class` (what reports call it), `tenant`, `prefix` and `prefix_tokens`, `priority`, `due_ms`.
//!
//! The first `prefix_tokens` tokens of prompts with the same `prefix` are the same. Without `prefix_tokens` it is a
//! conversation: the whole prompt and the answer go on in it, so that a later, longer prompt finds both.

use std::sync::Arc;

use serde_json::{Map, Value, json};

/// One request to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// When, in seconds.
    pub at_s: f64,
    /// What it is called in reports.
    pub class: Arc<str>,
    /// On whose behalf.
    pub tenant: Arc<str>,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens after which its model stops, which nobody else knows.
    pub output_tokens: u32,
    /// What it begins with.
    pub prefix: Option<Prefix>,
    /// Lower goes first, where the policy has classes.
    pub priority: i32,
    /// How long after its arrival its first token is due, in milliseconds.
    pub due_ms: Option<u32>,
}

/// What a prompt begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Which prefix.
    pub id: Arc<str>,
    /// How many tokens of the prompt are of it; nothing where the prompt and its answer are.
    pub tokens: Option<u32>,
}

/// What is wrong with a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// Where, from 1.
    pub line: usize,
    /// What.
    pub what: String,
}

impl Job {
    /// A request with nothing particular about it.
    pub fn new(at_s: f64, prompt_tokens: u32, output_tokens: u32) -> Self {
        Self {
            at_s,
            class: "all".into(),
            tenant: "".into(),
            prompt_tokens,
            output_tokens,
            prefix: None,
            priority: 0,
            due_ms: None,
        }
    }
}

const FIELDS: [&str; 9] = [
    "at_s",
    "prompt_tokens",
    "output_tokens",
    "class",
    "tenant",
    "prefix",
    "prefix_tokens",
    "priority",
    "due_ms",
];

/// Reads a trace: JSON lines if it begins with `{`, otherwise CSV with a header line. In order of arrival.
pub fn read(text: &str) -> Result<Vec<Job>, Error> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty()).peekable();
    let is_json = lines.peek().is_some_and(|(_, line)| line.starts_with('{'));
    let header = if is_json { None } else { lines.next().map(header).transpose()? };
    let job = |(line, text): (usize, &str)| {
        let wrong = |what| Error { line, what };
        let fields = match &header {
            None => json_fields(text).map_err(wrong)?,
            Some(header) => csv_fields(header, text).map_err(wrong)?,
        };
        job_of(&fields).map_err(wrong)
    };
    let mut jobs = lines.map(job).collect::<Result<Vec<_>, _>>()?;
    jobs.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
    Ok(jobs)
}

/// A trace as JSON lines.
pub fn write(jobs: &[Job]) -> String {
    let line = |job: &Job| {
        let mut fields = json!({
            "at_s": (job.at_s * 1e6).round() / 1e6,
            "class": &*job.class,
            "tenant": &*job.tenant,
            "prompt_tokens": job.prompt_tokens,
            "output_tokens": job.output_tokens,
        });
        if let Some(Prefix { id, tokens }) = &job.prefix {
            fields["prefix"] = json!(&**id);
            if let Some(tokens) = tokens {
                fields["prefix_tokens"] = json!(tokens);
            }
        }
        if job.priority != 0 {
            fields["priority"] = json!(job.priority);
        }
        if let Some(due_ms) = job.due_ms {
            fields["due_ms"] = json!(due_ms);
        }
        format!("{fields}\n")
    };
    jobs.iter().map(line).collect()
}

type Fields = Map<String, Value>;

fn known(name: &str) -> Result<(), String> {
    if FIELDS.contains(&name) {
        return Ok(());
    }
    Err(format!("there is no field `{name}`; there are {}", FIELDS.join(", ")))
}

fn json_fields(text: &str) -> Result<Fields, String> {
    let fields: Fields = serde_json::from_str(text).map_err(|error| error.to_string())?;
    fields.keys().try_for_each(|name| known(name))?;
    Ok(fields)
}

fn header((line, text): (usize, &str)) -> Result<Vec<String>, Error> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let unknown = names.iter().try_for_each(|name| known(name));
    unknown.map(|()| names).map_err(|what| Error { line, what })
}

fn csv_fields(header: &[String], text: &str) -> Result<Fields, String> {
    let values: Vec<&str> = text.split(',').map(str::trim).collect();
    if values.len() != header.len() {
        return Err(format!("{} values under {} names", values.len(), header.len()));
    }
    let filled = header.iter().zip(values).filter(|(_, value)| !value.is_empty());
    Ok(filled.map(|(name, value)| (name.clone(), Value::from(value))).collect())
}

fn job_of(fields: &Fields) -> Result<Job, String> {
    let at_s = float(fields, "at_s")?.ok_or("`at_s` is missing")?;
    if !(at_s.is_finite() && at_s >= 0.0) {
        return Err(format!("`at_s` is {at_s}"));
    }
    let tokens = |name: &'static str| {
        let tokens: u32 = whole(fields, name)?.ok_or_else(|| format!("`{name}` is missing"))?;
        if tokens == 0 { Err(format!("`{name}` is 0: at least one is needed")) } else { Ok(tokens) }
    };
    let text = |name: &str| fields.get(name).map(shown);
    let (prefix, prefix_tokens) = (text("prefix"), whole(fields, "prefix_tokens")?);
    if prefix.is_none() && prefix_tokens.is_some() {
        return Err("`prefix_tokens` without a `prefix`".to_owned());
    }
    Ok(Job {
        at_s,
        class: text("class").unwrap_or("all".to_owned()).into(),
        tenant: text("tenant").unwrap_or_default().into(),
        prompt_tokens: tokens("prompt_tokens")?,
        output_tokens: tokens("output_tokens")?,
        prefix: prefix.map(|id| Prefix { id: id.into(), tokens: prefix_tokens }),
        priority: whole(fields, "priority")?.unwrap_or(0),
        due_ms: whole(fields, "due_ms")?,
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn float(fields: &Fields, name: &str) -> Result<Option<f64>, String> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.map(Some).ok_or_else(|| format!("`{name}` is {value}, which is no number"))
}

fn whole<T: TryFrom<i64>>(fields: &Fields, name: &str) -> Result<Option<T>, String> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let fitting = number.and_then(|number| T::try_from(number).ok());
    fitting.map(Some).ok_or_else(|| format!("`{name}` is {value}, which is no number that fits"))
}
