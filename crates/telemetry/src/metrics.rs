//! The registry that `/metrics` shows.

use prometheus_client::{encoding::text, registry::Registry};

use crate::{
    engine::{EngineFamilies, EngineMetrics},
    http::HttpMetrics,
};

/// Media type of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every metric of the program. Built whole at start, so that a metric exists before its first event.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    engine: EngineFamilies,
    http: HttpMetrics,
}

impl Metrics {
    /// A registry with all families and no values.
    #[expect(clippy::new_without_default, reason = "a registry is made on purpose, once")]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let engine = EngineFamilies::default();
        engine.register(&mut registry);
        let http = HttpMetrics::default();
        http.register(&mut registry);
        Self { registry, engine, http }
    }

    /// The metrics of the engine that serves `model_name`.
    pub fn engine(&self, model_name: &str) -> EngineMetrics {
        self.engine.of(model_name)
    }

    /// The metrics of the HTTP front door.
    pub fn http(&self) -> HttpMetrics {
        self.http.clone()
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a String never fails");
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{Ending, Rejection};

    #[test]
    fn own_names_and_aliases_show_the_same_values() {
        let metrics = Metrics::new();
        let engine = metrics.engine("smol\"lm");
        engine.set_requests(3, 5);
        engine.set_kv_blocks(25, 100);
        engine.set_host_blocks(50, 200);
        engine.copied(7, 3, 48);
        engine.first_token(Duration::from_millis(70), 12);
        engine.next_token(Duration::from_millis(20));
        engine.ended(Ending::Length, Duration::from_secs(1));
        engine.rejected(Rejection::Overloaded);
        let text = metrics.encode();
        for line in [
            r#"brigade_requests_running{model_name="smol\"lm"} 3"#,
            r#"vllm:num_requests_running{model_name="smol\"lm"} 3"#,
            r#"vllm:num_requests_waiting{model_name="smol\"lm"} 5"#,
            r#"vllm:kv_cache_usage_perc{model_name="smol\"lm"} 0.25"#,
            r#"brigade_kv_cache_host_usage_ratio{model_name="smol\"lm"} 0.25"#,
            r#"brigade_kv_cache_host_blocks{model_name="smol\"lm"} 200"#,
            r#"brigade_kv_cache_blocks_to_host_total{model_name="smol\"lm"} 7"#,
            r#"brigade_kv_cache_blocks_from_host_total{model_name="smol\"lm"} 3"#,
            r#"brigade_kv_cache_host_hits_total{model_name="smol\"lm"} 48"#,
            r#"vllm:prompt_tokens_total{model_name="smol\"lm"} 12"#,
            r#"brigade_generation_tokens_total{model_name="smol\"lm"} 2"#,
            r#"vllm:generation_tokens_total{model_name="smol\"lm"} 2"#,
            r#"vllm:num_preemptions_total{model_name="smol\"lm"} 0"#,
            r#"vllm:request_success_total{model_name="smol\"lm",finished_reason="length"} 1"#,
            r#"brigade_requests_rejected_total{model_name="smol\"lm",reason="overloaded"} 1"#,
            r#"vllm:time_to_first_token_seconds_bucket{le="0.08",model_name="smol\"lm"} 1"#,
            r#"vllm:inter_token_latency_seconds_count{model_name="smol\"lm"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn models_share_a_family() {
        let metrics = Metrics::new();
        metrics.engine("a").preempted(1);
        metrics.engine("b").preempted(2);
        metrics.engine("a").preempted(1);
        let text = metrics.encode();
        assert_eq!(text.matches("# TYPE brigade_preemptions counter").count(), 1);
        assert!(text.contains("brigade_preemptions_total{model_name=\"a\"} 2"));
        assert!(text.contains("brigade_preemptions_total{model_name=\"b\"} 2"));
    }
}
