//! Over real connections: shutdown, clients that hang up, clients that do not read.

use std::{net::SocketAddr, time::Duration};

use front::FrontSettings;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    parrot::Permits,
    support::{House, chat_body},
};

/// A house that listens.
struct Server {
    house: House,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn over(house: House) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that a client that does not read is noticed soon.
        socket.set_send_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let state = house.state.clone();
        let task = tokio::spawn(async move {
            front::serve(listener, state, async {
                let _either_way = stopped.await;
            })
            .await
        });
        Self { house, address, stop: Some(stop), task }
    }

    async fn gated(settings: FrontSettings) -> (Self, Permits) {
        let (house, permits) = House::gated(settings);
        (Self::over(house).await, permits)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n\r\n{body}").into()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").into()
}

fn long(stream: bool) -> Vec<u8> {
    let options = json!({"stream": stream, "ignore_eos": true, "max_tokens": 400});
    post("/v1/chat/completions", &chat_body("hi", options))
}

async fn read_until(connection: &mut TcpStream, mark: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(mark) {
        let length = connection.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0, "the connection ended before {mark:?}: {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_request() {
    for stream in [true, false] {
        let (server, permits) = Server::gated(FrontSettings::default()).await;
        let mut connection = server.connect().await;
        connection.write_all(&long(stream)).await.unwrap();
        server.house.busy(1).await;
        if stream {
            permits.allow(2);
            read_until(&mut connection, "\"content\":\"h\"").await;
        }
        drop(connection);
        // The request is given up before a step lets the engine go on.
        in_flight(&server, 0).await;
        drop(permits);
        server.house.idle().await;
        assert!(server.house.handle.stats().generated_tokens < 400);
    }
}

/// Waits until this many requests are under way at the front door.
async fn in_flight(server: &Server, requests: u32) {
    let line = format!("brigade_http_requests_in_flight {}\n", requests + 1);
    while !server.house.get("/metrics").await.text().contains(&line) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let settings =
        FrontSettings { write_timeout: Duration::from_millis(50), ..FrontSettings::default() };
    let (server, permits) = Server::gated(settings).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut lazy = socket.connect(server.address).await.unwrap();
    // Megabytes of events, of which the client takes none.
    let options = json!({"stream": true, "ignore_eos": true, "max_tokens": 500, "n": 32});
    lazy.write_all(&post("/v1/chat/completions", &chat_body("hi", options))).await.unwrap();
    server.house.busy(32).await;
    drop(permits);
    // A neighbour has its answer meanwhile.
    let mut neighbour = server.connect().await;
    neighbour.write_all(&post("/v1/completions", r#"{"prompt": "ab"}"#)).await.unwrap();
    read_until(&mut neighbour, "\"text\"").await;
    in_flight(&server, 0).await;
    server.house.idle().await;
    drop(lazy);
}

#[tokio::test]
async fn shutdown_lets_streams_finish() {
    let (mut server, permits) = Server::gated(FrontSettings::default()).await;
    let mut connection = server.connect().await;
    connection.write_all(&long(true)).await.unwrap();
    permits.allow(2);
    read_until(&mut connection, "\"content\":\"h\"").await;
    server.stop();
    // New connections still hear that the server is going.
    loop {
        let mut watcher = server.connect().await;
        watcher.write_all(&get("/ready")).await.unwrap();
        if read_to_end(&mut watcher).await.starts_with("HTTP/1.1 503") {
            break;
        }
    }
    drop(permits);
    assert!(read_to_end(&mut connection).await.contains("data: [DONE]"));
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_ends_what_takes_too_long() {
    let settings = FrontSettings { drain_timeout: Duration::ZERO, ..FrontSettings::default() };
    let (mut server, permits) = Server::gated(settings).await;
    let mut connection = server.connect().await;
    connection.write_all(&long(true)).await.unwrap();
    permits.allow(2);
    read_until(&mut connection, "\"content\":\"h\"").await;
    server.stop();
    // The engine ends requests between steps. It is given them one by one, fewer than the answer would take.
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("error") && text.matches("data:").count() < 300 {
        permits.allow(1);
        let length = connection.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text.push_str(&read_to_end(&mut connection).await);
    assert!(text.contains("data: {\"error\":{\"message\":\"the server was shut down"), "{text}");
    assert!(!text.contains("[DONE]"));
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_answered_or_cut_off() {
    let server = Server::over(House::new()).await;
    let header = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\x00\x00",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        header.as_bytes(),
    ];
    for bytes in garbage {
        let mut connection = server.connect().await;
        // The server may hang up before it has everything.
        let _all_or_not = connection.write_all(bytes).await;
        let mut answer = Vec::new();
        let _reset_or_not = connection.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    }
    assert_eq!(server.house.get("/health").await.status, 200);
}
