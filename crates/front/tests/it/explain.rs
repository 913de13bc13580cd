//! What a request is told of where its time went, and who may ask about others'.

use axum::{body::Body, http::Request};
use front::FrontSettings;
use serde_json::{Value, json};

use super::support::{House, HouseOptions, chat_body};

/// Checks the account of one answer, and gives its causes' sum.
fn check(account: &Value) {
    let times = account["time_ms"].as_object().unwrap();
    assert_eq!(times.len(), 12, "{account}");
    let sum: f64 = times.values().map(|time_ms| time_ms.as_f64().unwrap()).sum();
    let total = account["total_ms"].as_f64().unwrap();
    // Each is cut to a microsecond.
    assert!((total - sum).abs() < 0.02, "{account}");
    assert!(times["prefill"].as_f64().unwrap() > 0.0, "{account}");
    assert_eq!(account["prefix"]["hit_tokens"], 0);
    assert_eq!(
        (&account["prefix"]["host_tokens"], &account["restored_tokens"]),
        (&json!(0), &json!(0))
    );
    assert!(account["preempted"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn usage_explains_when_asked_by_field_or_header() {
    let house = House::new();
    let plain = house.chat("hi", json!({})).await.ok();
    assert_eq!(plain["usage"].get("brigade"), None);

    let asked = house.chat("hi", json!({"explain": true})).await.ok();
    let choices = asked["usage"]["brigade"]["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 1);
    check(&choices[0]);
    assert_eq!(choices[0]["steps"]["decode"], 2, "two of its three tokens");

    let by_header = Request::post("/v1/completions").header("x-brigade-explain", "true");
    let body = json!({"prompt": "abc", "n": 2, "temperature": 0}).to_string();
    let answer = house.send(by_header.body(body.into()).unwrap()).await.ok();
    let choices = answer["usage"]["brigade"]["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    choices.iter().for_each(check);
    house.chat("hi", json!({"explain": "yes"})).await.json()["error"]["param"]
        .as_str()
        .map(|param| assert_eq!(param, "explain"))
        .unwrap();
}

#[tokio::test]
async fn a_stream_explains_in_its_last_chunk() {
    let house = House::new();
    // At a stop string the engine has not ended the request yet.
    for options in [json!({}), json!({"stop": "c", "ignore_eos": true})] {
        let mut body = json!({"stream": true, "explain": true});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let chunks = house.chat("abcd", body).await.chunks();
        let (last, before) = chunks.split_last().unwrap();
        assert!(before.iter().all(|chunk| chunk["usage"].is_null()));
        check(&last["usage"]["brigade"]["choices"][0]);
    }
}

#[tokio::test]
async fn administrators_see_requests_under_way_and_those_that_ended() {
    let (house, permits) = House::gated(FrontSettings::default());
    let asking = |id: &str| {
        let body = chat_body("hi", json!({"user": "ann"}));
        Request::post("/v1/chat/completions").header("x-request-id", id).body(body.into()).unwrap()
    };
    permits.allow(4);
    house.send(asking("one")).await.ok();
    let under_way = house.send(asking("two"));
    let seen = async {
        // Until its first step is planned it waits.
        while house.handle.stats().running == 0 {
            tokio::task::yield_now().await;
        }
        // Asked while a step waits for its permit, it is answered when the step is done.
        let (found, ()) = tokio::join!(house.get("/admin/requests/two"), async {
            tokio::task::yield_now().await;
            permits.allow(1);
        });
        let found = found.ok();
        assert_eq!(found["requests"][0]["state"], "running", "{found}");
        assert_eq!(found["requests"][0]["ending"], Value::Null);
        permits.allow(10);
    };
    tokio::join!(under_way, seen).0.ok();
    drop(permits);
    house.idle().await;
    let list = house.get("/admin/requests?limit=5").await.ok();
    let requests = list["requests"].as_array().unwrap();
    let of = |request: &Value, field: &str| request[field].as_str().unwrap().to_owned();
    let shown: Vec<_> = requests.iter().map(|request| of(request, "id")).collect();
    assert_eq!(shown, ["two", "one"], "the latest first");
    assert_eq!(of(&requests[0], "tenant"), "ann");
    assert_eq!(
        (of(&requests[0], "state"), of(&requests[0], "ending")),
        ("ended".into(), "stop".into())
    );
    assert_eq!(requests[0]["generated_tokens"], 3);
    let one = house.get("/admin/requests/chatcmpl-one").await.ok();
    check(&one["requests"][0]);
    assert_eq!(house.get("/admin/requests/three").await.status, 404);
    assert_eq!(house.get("/admin/requests?limit=0").await.status, 400);
}

#[tokio::test]
async fn administrators_have_keys_of_their_own() {
    let with = |api_keys: &[&str], admin_keys: &[&str]| {
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let (api_keys, admin_keys) = (owned(api_keys), owned(admin_keys));
        let settings = FrontSettings { api_keys, admin_keys, ..FrontSettings::default() };
        House::with(HouseOptions { settings, ..HouseOptions::default() })
    };
    let status = async |house: &House, key: &str| {
        let request =
            Request::get("/admin/requests").header("authorization", format!("Bearer {key}"));
        house.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    let open = with(&[], &[]);
    assert_eq!(status(&open, "").await, 200);
    let closed = with(&["client"], &[]);
    assert_eq!((status(&closed, "client").await, status(&closed, "").await), (403, 403));
    let both = with(&["client"], &["boss"]);
    assert_eq!((status(&both, "client").await, status(&both, "").await), (401, 401));
    assert_eq!(status(&both, "boss").await, 200);
    let admin = with(&[], &["boss"]);
    assert_eq!((status(&admin, "").await, status(&admin, "boss").await), (401, 200));
    // An administrator's key is no client's.
    let models = Request::get("/v1/models").header("authorization", "Bearer boss");
    assert_eq!(both.send(models.body(Body::empty()).unwrap()).await.status, 401);
}
