//! Tests of templates: representative ones of each family, and what must not hurt.

use std::time::Duration;

use super::*;

const CHATML: &str = "{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

const LLAMA3: &str = "{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today Date: ' + strftime_now('%d %b %Y') + '\\n\\n' }}
{{- system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if tools is not none and loop.last %}
        {%- for tool in tools %}{{- tool | tojson(indent=2) + '\\n' }}{%- endfor %}
    {%- endif %}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}";

const MISTRAL: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

/// Takes both forms of content.
const PARTS: &str = "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'text' %}<{{ part.text }}>{% endif %}{% endfor %}{% endif %}{% endfor %}";

fn options() -> RenderOptions<'static> {
    RenderOptions::new(UNIX_EPOCH + Duration::from_secs(1_750_000_000))
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

fn messages(value: Value) -> Vec<Value> {
    value.as_array().unwrap().clone()
}

fn check(source: &str, messages_json: Value, expect: &str) {
    assert_eq!(template(source).render(&messages(messages_json), &options()).unwrap(), expect);
}

fn hello() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

#[test]
fn chatml() {
    check(
        CHATML,
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi\n"}]),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\n",
    );
    let options = RenderOptions { add_generation_prompt: false, ..options() };
    let text = template(CHATML).render(&messages(hello()), &options).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n");
}

#[test]
fn llama3_with_the_date_and_tools() {
    check(
        LLAMA3,
        hello(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 15 Jun 2025\n\n<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    let tools = json!([{"type": "function", "function": {"name": "zeta", "alpha": 1}}]);
    let options = RenderOptions { tools: Some(&tools), ..options() };
    let text = template(LLAMA3).render(&messages(hello()), &options).unwrap();
    let tool = "{\n  \"type\": \"function\",\n  \"function\": {\n    \"name\": \"zeta\",\n    \"alpha\": 1\n  }\n}\n";
    assert!(text.contains(&format!("user<|end_header_id|>\n\n{tool}Hi<|eot_id|>")), "{text}");
}

#[test]
fn mistral_insists_on_roles() {
    check(
        MISTRAL,
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]),
        "<s>[INST] a [/INST]b</s>[INST] c [/INST]",
    );
    let twice = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]);
    let error = template(MISTRAL).render(&messages(twice), &options()).unwrap_err();
    assert!(
        matches!(&error, Error::Raised { message } if message.starts_with("Conversation roles must")),
        "{error}"
    );
    let fault = types::Fault::from(error);
    assert_eq!(fault.kind, types::FaultKind::Invalid);
    assert_eq!(fault.field.as_deref(), Some("messages"));
}

#[test]
fn contents_with_parts_reach_every_template() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    assert!(!template(CHATML).takes_content_parts());
    check(CHATML, parts.clone(), "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n");
    check(MISTRAL, parts.clone(), "<s>[INST] a\nb [/INST]");
    assert!(template(PARTS).takes_content_parts());
    check(PARTS, parts.clone(), "<a><b>");
    check(PARTS, hello(), "Hi");
    // A template that prints what it does not know does not understand it.
    assert!(!template("{{ messages[0].content }}").takes_content_parts());
    // A template that knows only parts gets parts.
    let only_parts =
        "{% for m in messages %}{% for p in m.content %}{{ p['text'] }};{% endfor %}{% endfor %}";
    check(only_parts, hello(), "Hi;");
}

#[test]
fn whitespace_is_as_in_transformers() {
    check("a\n  {% if true %}\nb\n  {% endif %}\nc\n", hello(), "a\nb\nc");
    check("{% for m in messages %}\n  {{ m.content }}\n{% endfor %}\n", hello(), "  Hi\n");
}

#[test]
fn python_is_understood() {
    check(
        "{{ 'a b'.split(' ')[1] }}{{ ' x '.strip() }}{{ 'ab'.startswith('a') }}",
        hello(),
        "bxTrue",
    );
    check("{{ none }} {{ true }} {{ 1.0 }} {{ false ~ '' }}", hello(), "None True 1.0 False");
    check("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", hello(), "b1a2");
    check(
        "{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}",
        hello(),
        "13",
    );
    check(
        "{% set ns = namespace(n=0) %}{% for m in [1, 2] %}{% set ns.n = ns.n + m %}{% endfor %}{{ ns.n }}",
        hello(),
        "3",
    );
    check("{{ messages | tojson }}", hello(), r#"[{"role": "user", "content": "Hi"}]"#);
    check(
        "{{ {'é<>&': [1]} | tojson(ensure_ascii=true, separators=(',', ':')) }}",
        hello(),
        "{\"\\u00e9<>&\":[1]}",
    );
    check(
        "{{ messages[::-1][0].role }}{{ tools is none }}{{ documents is defined }}",
        hello(),
        "userTrueTrue",
    );
    check("{{ messages[0].missing is defined }}{{ messages[0].missing }}", hello(), "False");
}

#[test]
fn generation_tags_are_transparent() {
    check("a {%- generation -%} b {% endgeneration %}c", hello(), "ab c");
}

#[test]
fn values_that_contain_themselves_or_are_very_deep_are_refused() {
    let refused = |source: &str, expect: &str| {
        let error =
            template(source).render(&messages(hello()), &options()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    for cycle in ["ns", "[ns]", "{'a': [ns]}", "namespace(a=ns)", "[ns][::1]"] {
        let source =
            format!("{{% set ns = namespace(x=1) %}}{{% set ns.x = {cycle} %}}{{{{ ns }}}}");
        refused(&source, "a namespace cannot be kept in a namespace");
    }
    refused(
        "{% set ns = namespace(x=1) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "too deep",
    );
    refused(&format!("{}{{{{ x }}}}", "{% set x = [x] %}".repeat(999)), "too deep");
    refused(
        &format!("{{% set x = [1] %}}{}{{{{ x }}}}", "{% set x = [x[::1]] %}".repeat(999)),
        "too deep",
    );
    // What is fine stays fine.
    check(
        "{% set x = messages[::-1] %}{% set a, b = 1, [2] %}{{ x[0].role }}{{ a }}{{ b[0] }}",
        hello(),
        "user12",
    );
    check("{% set x = 1 if false %}{{ x is defined }}", hello(), "False");
}

#[test]
fn extra_variables_are_seen_but_do_not_replace_the_messages() {
    let extra = json!({"enable_thinking": false, "messages": [], "bos_token": "!"});
    let options = RenderOptions { extra: extra.as_object(), ..options() };
    let source = "{{ enable_thinking }}{{ messages | length }}{{ bos_token }}";
    assert_eq!(template(source).render(&messages(hello()), &options).unwrap(), "False1!");
}

#[test]
fn errors_name_the_line() {
    let error = ChatTemplate::new("a\nb\n{% if %}", "", "").unwrap_err();
    assert!(matches!(error, Error::Syntax { line: 3, .. }), "{error}");
    let error =
        template("a\n{{ messages[0].x.y }}").render(&messages(hello()), &options()).unwrap_err();
    assert!(matches!(error, Error::Render { line: 2, .. }), "{error}");
    let error =
        template("{{ 'a'.no_such_method() }}").render(&messages(hello()), &options()).unwrap_err();
    assert!(error.to_string().contains("no_such_method"), "{error}");
}

#[test]
fn work_and_output_are_bounded() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let error = template(endless).render(&messages(hello()), &options()).unwrap_err();
    assert!(matches!(error, Error::OutOfFuel { .. }), "{error}");
    let memory = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    let error = template(memory).render(&messages(hello()), &options()).unwrap_err();
    assert!(matches!(error, Error::OutOfFuel { .. }), "{error}");
    let output = "{% set x = 'a' * 1000000 %}{% for a in range(99) %}{{ x }}{% endfor %}";
    let error = template(output).render(&messages(hello()), &options()).unwrap_err();
    assert!(matches!(error, Error::OutputTooLong { .. }), "{error}");
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(template(deep).render(&messages(hello()), &options()).is_err());
}

#[test]
fn bad_time_formats_are_errors() {
    let error =
        template("{{ strftime_now('%') }}").render(&messages(hello()), &options()).unwrap_err();
    assert!(error.to_string().contains("strftime_now"), "{error}");
}

#[test]
fn templates_of_folders() {
    let dir = tempfile::tempdir().unwrap();
    let load = || ChatTemplate::from_folder(dir.path(), "", "");
    let render = |options: &RenderOptions<'_>| {
        load().unwrap().unwrap().render(&messages(hello()), options).unwrap()
    };
    assert!(load().unwrap().is_none());

    let config = dir.path().join("tokenizer_config.json");
    fs::write(&config, r#"{"eos_token": "</s>"}"#).unwrap();
    assert!(load().unwrap().is_none());
    fs::write(&config, r#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#).unwrap();
    assert_eq!(render(&options()), "D");
    let tools = json!([]);
    assert_eq!(render(&RenderOptions { tools: Some(&tools), ..options() }), "T");
    fs::write(&config, r#"{"chat_template": "C"}"#).unwrap();
    assert_eq!(render(&options()), "C");
    fs::write(dir.path().join("chat_template.jinja"), "J").unwrap();
    assert_eq!(render(&options()), "J");

    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    for bad in [r#"{"chat_template": 1}"#, r#"{"chat_template": []}"#, "{"] {
        fs::write(&config, bad).unwrap();
        assert!(load().unwrap_err().to_string().contains("tokenizer_config.json"));
    }
}
