//! Chat templates with messages: an input is a template, a zero byte, and the JSON of the messages.

use std::time::UNIX_EPOCH;

use chat::{ChatTemplate, RenderOptions};
use serde_json::{Value, json};

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "template",
    feed,
    corpus,
    dictionary: &[
        b"{{",
        b"}}",
        b"{%",
        b"%}",
        b"{%-",
        b"-%}",
        b"{#",
        b"#}",
        b"\0",
        b"[",
        b"]",
        b"{",
        b"}",
        b"(",
        b")",
        b"\"",
        b"'",
        b" for x in ",
        b"{% endfor %}",
        b"{% if ",
        b"{% endif %}",
        b"{% set ",
        b"{% macro f() %}",
        b"{% endmacro %}",
        b"messages",
        b"message",
        b"['content']",
        b".role",
        b"loop.index0",
        b"range(",
        b" * 99999999",
        b" ** ",
        b"~",
        b"|tojson",
        b"|trim",
        b"|length",
        b"namespace(",
        b"raise_exception(",
        b"strftime_now(",
        b"99999999999999999999",
        b"{% generation %}",
        b"{% break %}",
        b".split(",
        b".replace('', ",
        b"is defined",
        b"not ",
        b" in ",
        b"\"type\"",
    ],
    memory_bytes_max: 512 << 20,
};

/// Longest text that the renderer promises.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

fn feed(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0).map(String::from_utf8_lossy);
    let (Some(source), Some(messages)) = (parts.next(), parts.next()) else { return };
    // Where the messages are broken, the template may still be of interest.
    let messages = serde_json::from_str(&messages).ok();
    let messages: Vec<Value> =
        messages.unwrap_or_else(|| vec![json!({"role": "user", "content": "x"})]);
    let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") else { return };
    let tools = Value::Array(messages.clone());
    let plain = RenderOptions::new(UNIX_EPOCH);
    for options in [plain, RenderOptions { tools: Some(&tools), ..plain }] {
        if let Ok(text) = template.render(&messages, &options) {
            assert!(text.len() <= OUTPUT_BYTES_MAX);
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let templates = [
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}{% endfor %}",
        "{%- set ns = namespace(n=0) %}{%- for m in messages[::-1] %}{% set ns.n = ns.n + loop.index %}{{ m | tojson(indent=2) }}{% endfor %}{{ ns.n }}",
        "{{ bos_token }}{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ strftime_now('%d %b %Y') }}{{ messages[0].content.split(' ')[0] | upper }}",
        "{% macro show(m) %}{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}{{ show(m) }}{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}",
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{% generation %}{{ messages[0].content * 3 }}{% endgeneration %}",
    ];
    let messages = [
        r#"[{"role": "user", "content": "Hello there"}]"#,
        r#"[{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": 1}"}}]}]"#,
    ];
    let pairs = templates.iter().flat_map(|template| messages.map(|messages| (template, messages)));
    pairs.map(|(template, messages)| format!("{template}\0{messages}").into_bytes()).collect()
}
