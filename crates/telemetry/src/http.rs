//! Metrics of the HTTP front door.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

const DURATION_SECONDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];

/// Route and method come from lists that the server knows, never from what a client sent: a label with free values
/// would grow without limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

/// What the front door records. Cheap to clone; every clone counts into the same metrics.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<Answered, Counter>,
    in_flight: Gauge,
    duration: Family<Route, Histogram, fn() -> Histogram>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            in_flight: Gauge::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_SECONDS)),
        }
    }
}

impl HttpMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        for name in ["brigade_http_requests", "http_requests"] {
            let help = "HTTP requests answered, by method, route and status";
            registry.register(name, help, self.requests.clone());
        }
        registry.register(
            "brigade_http_requests_in_flight",
            "HTTP requests whose answer is not complete",
            self.in_flight.clone(),
        );
        for name in ["brigade_http_request_duration_seconds", "http_request_duration_seconds"] {
            let help = "From the head of a request to the end of its answer";
            registry.register(name, help, self.duration.clone());
        }
    }

    /// A request has come in.
    pub fn started(&self) {
        self.in_flight.inc();
    }

    /// The answer to a request is complete, or its client is gone.
    pub fn finished(&self, method: &'static str, route: &str, status: u16, duration: Duration) {
        self.in_flight.dec();
        let answered = Answered { method, route: route.to_owned(), status };
        self.requests.get_or_create_owned(&answered).inc();
        let route = Route { route: route.to_owned() };
        self.duration.get_or_create_owned(&route).observe(duration.as_secs_f64());
    }
}
