//! Bodies of requests: the first byte picks the route, the rest is the body.

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "http_body",
    feed,
    corpus,
    dictionary: &[
        b"\"messages\":[",
        b"\"role\":\"user\"",
        b"\"content\":",
        b"\"prompt\":",
        b"\"stop\":[",
        b"\"logit_bias\":{\"5\":",
        b"\"stream_options\":{\"include_usage\":true}",
        b"\"n\":",
        b"\"temperature\":",
        b"\"max_tokens\":",
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\\ud800",
        b"[[[[[[[[",
        b"{",
        b"}",
    ],
    memory_bytes_max: 16 << 20,
};

const ROUTES: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"];

fn feed(input: &[u8]) {
    let Some((route, body)) = input.split_first() else { return };
    let route = ROUTES[usize::from(*route) % ROUTES.len()];
    if let Err(error) = front::check_body(route, body) {
        // Whatever is wrong with a body is the sender's to know, and never a defect of ours.
        assert!(error.status().is_client_error(), "{route}: {}", error.status());
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let bodies = [
        (0, r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#),
        (
            0,
            r#"{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a"}]},{"role":"user",
            "content":null}],"max_tokens":5,"temperature":0.5,"top_p":0.9,"n":2,"stop":["a","b"],"stream":true,
            "stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":3,"logit_bias":{"7":-5},"seed":-1}"#,
        ),
        (
            1,
            r#"{"model":"m","prompt":["a","b"],"echo":true,"logprobs":2,"best_of":1,"suffix":null}"#,
        ),
        (
            1,
            r#"{"model":"m","prompt":[[1,2,3],[4]],"min_tokens":2,"ignore_eos":true,"stop_token_ids":[2]}"#,
        ),
        (2, r#"{"model":"m","prompt":"hello","add_special_tokens":false}"#),
        (2, r#"{"inputs":"hello"}"#),
        (3, r#"{"model":"m","tokens":[1,2,3]}"#),
    ];
    let input = |(route, body): (u8, &str)| [&[route], body.as_bytes()].concat();
    bodies.into_iter().map(input).collect()
}
