//! What happens to a request that does not simply run to its end: refused, failed, left alone, cut short.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
    response::Response,
};
use engine::{EngineSettings, SchedulerSettings, testing::FakeSettings};
use front::{FrontSettings, SamplingDefaults};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;
use types::{Fault, FaultKind};

use super::{
    parrot::SLOTS_MAX,
    support::{House, HouseOptions, chat_body, data},
};

/// An answer that takes 400 steps.
fn long(stream: bool) -> Request<Body> {
    let options = json!({"stream": stream, "ignore_eos": true, "max_tokens": 400});
    Request::post("/v1/chat/completions").body(chat_body("hi", options).into()).unwrap()
}

/// The next event of a stream.
async fn next(response: &mut Response) -> Option<String> {
    let frame = response.body_mut().frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_first_token_ends_its_request() {
    for stream in [true, false] {
        let (house, permits) = House::gated(FrontSettings::default());
        let answer = house.router.clone().oneshot(long(stream));
        tokio::select! {
            _ = answer => panic!("there is no answer without a step"),
            () = house.busy(1) => {}
        }
        drop(permits);
        house.idle().await;
        assert!(house.handle.stats().generated_tokens < 400);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_in_a_stream_ends_its_request() {
    let (house, permits) = House::gated(FrontSettings::default());
    permits.allow(3);
    let mut response = house.router.clone().oneshot(long(true)).await.unwrap();
    assert!(next(&mut response).await.unwrap().contains("\"role\":\"assistant\""));
    assert!(next(&mut response).await.unwrap().contains("\"content\":\"h\""));
    assert_eq!(house.handle.stats().running, 1);
    drop(response);
    drop(permits);
    house.idle().await;
    assert!(house.handle.stats().generated_tokens < 400);
}

#[tokio::test]
async fn one_of_several_answers_gone_means_all_are() {
    let (house, permits) = House::gated(FrontSettings::default());
    let body = chat_body("hi", json!({"n": 20, "ignore_eos": true}));
    let request = Request::post("/v1/chat/completions").body(Body::from(body)).unwrap();
    tokio::select! {
        _ = house.router.clone().oneshot(request) => panic!("there is no answer without a step"),
        () = house.busy(20) => {}
    }
    drop(permits);
    house.idle().await;
}

fn short_queue(settings: FrontSettings) -> HouseOptions {
    let scheduler = SchedulerSettings { waiting_max: 2, ..SchedulerSettings::default() };
    let engine = EngineSettings { scheduler, ..EngineSettings::default() };
    HouseOptions { settings, engine, ..HouseOptions::default() }
}

#[tokio::test]
async fn a_full_queue_asks_to_come_back() {
    let (gate, permits) = super::parrot::gate();
    let options = HouseOptions { gate: Some(gate), ..short_queue(FrontSettings::default()) };
    let house = House::with(options);
    // Nothing runs before the first step is done, so the queue takes two and not a third.
    let places = SLOTS_MAX + 3;
    let answer = house.chat("hi", json!({"n": places})).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
    assert_eq!(answer.header("x-should-retry"), Some("true"));
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    // Those that had a place already are taken back.
    drop(permits);
    house.idle().await;
    house.chat("hi", json!({})).await.ok();
}

#[tokio::test]
async fn a_full_house_asks_to_come_back() {
    let settings = FrontSettings { requests_max: 1, ..FrontSettings::default() };
    let (house, permits) = House::gated(settings);
    let first = house.router.clone().oneshot(long(false));
    let second = async {
        house.busy(1).await;
        let refused = house.chat("hi", json!({})).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.header("retry-after"), Some("1"));
        // Whoever watches over the server still gets in.
        assert_eq!(house.get("/health").await.status, StatusCode::OK);
        assert_eq!(house.get("/v1/models").await.status, StatusCode::OK);
        drop(permits);
    };
    let (first, ()) = tokio::join!(first, second);
    // The place is given back when the body is complete or dropped.
    drop(first);
    house.chat("hi", json!({})).await.ok();
}

#[tokio::test]
async fn a_fault_before_the_first_token_has_its_status() {
    let mut fake = FakeSettings::new(super::text::VOCAB_SIZE);
    fake.failing_token = Some(u32::from(b'!'));
    let house = House::over(
        fake.factory(),
        FrontSettings::default(),
        EngineSettings::default(),
        SamplingDefaults::default(),
    );
    for stream in [true, false] {
        let answer = house.chat("boom!", json!({"stream": stream, "max_tokens": 4})).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.json()["error"]["type"], "server_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("retry-after"), None);
    }
    house.chat("fine", json!({"max_tokens": 4})).await.ok();
}

#[tokio::test]
async fn a_fault_in_a_stream_is_its_last_event() {
    let (house, permits) = House::gated(FrontSettings::default());
    permits.allow(2);
    let mut response = house.router.clone().oneshot(long(true)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    house.handle.end_all(Fault::new(FaultKind::Unavailable, "that is all"));
    drop(permits);
    let mut events = Vec::new();
    while let Some(event) = next(&mut response).await {
        events.push(event);
    }
    let last = data(events.last().unwrap().trim_end());
    let expected = json!({"error": {"message": "that is all", "type": "server_error",
                                     "param": null, "code": "unavailable"}});
    assert_eq!(last, expected);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_lives() {
    let settings =
        FrontSettings { keep_alive_interval: Duration::from_secs(15), ..FrontSettings::default() };
    let (house, permits) = House::gated(settings);
    // Time stands still until nothing else can happen, then jumps to the next timer.
    let before = tokio::time::Instant::now();
    let mut response = house.router.clone().oneshot(long(true)).await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(15));
    assert!(next(&mut response).await.unwrap().contains("\"role\":\"assistant\""));
    for _ in 0..2 {
        let line = next(&mut response).await.unwrap();
        assert!(line.starts_with(':') && line.ends_with("\n\n"), "{line:?}");
    }
    assert_eq!(before.elapsed(), Duration::from_secs(45));
    drop(permits);
}

#[tokio::test]
async fn a_draining_house_finishes_what_it_began() {
    let (house, permits) = House::gated(FrontSettings::default());
    permits.allow(2);
    let mut response = house.router.clone().oneshot(long(true)).await.unwrap();
    assert_eq!(house.get("/ready").await.status, StatusCode::OK);
    house.state.drain();
    for answer in [
        house.get("/ready").await,
        house.chat("hi", json!({})).await,
        house.post("/tokenize", json!({"prompt": "x"}).to_string()).await,
    ] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["error"]["code"], "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("x-should-retry"), Some("true"));
    }
    assert_eq!(house.get("/health").await.status, StatusCode::OK);
    drop(permits);
    let mut last = String::new();
    while let Some(event) = next(&mut response).await {
        last = event;
    }
    assert_eq!(last, "data: [DONE]\n\n");
}
