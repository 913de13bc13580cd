//! A stand-in for the hub: the endpoints that its client uses, on a port of this machine.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::sha256;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file that the hub has.
#[derive(Clone)]
pub(super) struct File {
    pub(super) repository: String,
    pub(super) path: String,
    pub(super) content: Vec<u8>,
    pub(super) etag: String,
    /// What is sent instead of the content, of the same length.
    pub(super) sends: Option<Vec<u8>>,
    /// How many times a download breaks off in the middle.
    pub(super) breaks_off: usize,
}

impl File {
    /// A file that the hub calls by its SHA-256.
    pub(super) fn large(repository: &str, path: &str, content: &[u8]) -> Self {
        Self { etag: sha256(content), ..Self::small(repository, path, content) }
    }

    /// A file that the hub calls by git's checksum.
    pub(super) fn small(repository: &str, path: &str, content: &[u8]) -> Self {
        Self {
            repository: repository.to_owned(),
            path: path.to_owned(),
            content: content.to_vec(),
            etag: sha256(content)[..40].to_owned(),
            sends: None,
            breaks_off: 0,
        }
    }
}

/// What a client asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) range: Option<String>,
}

/// The running stand-in.
pub(super) struct StandIn {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    files: Vec<File>,
    requests: Vec<Request>,
}

impl StandIn {
    /// Starts it. It ends with the test program.
    pub(super) fn start(files: Vec<File>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { files, requests: Vec::new() }));
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&for_thread);
                // A client that goes away is no matter here.
                thread::spawn(move || drop(serve(stream.unwrap(), &shared)));
            }
        });
        Self { address, shared }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap().requests.clone()
    }
}

/// Answers one request and closes the connection.
fn serve(stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    // A connection without a request only looks whether somebody is there.
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut request = Request { path, token: None, range: None };
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = Some(value.trim().to_owned()),
            "range" => request.range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    shared.lock().unwrap().requests.push(request.clone());
    answer(stream, &request, shared)
}

fn answer(mut stream: TcpStream, request: &Request, shared: &Mutex<Shared>) -> std::io::Result<()> {
    if let Some(rest) = request.path.strip_prefix("/api/models/") {
        let body = rest.rsplit_once("/revision/").and_then(|(repository, revision)| {
            listing(repository, revision, &shared.lock().unwrap().files)
        });
        return respond(&mut stream, body);
    }
    let found = request.path[1..].split_once("/resolve/").and_then(|(repository, rest)| {
        let (revision, path) = rest.split_once('/')?;
        let known = ["main", COMMIT].contains(&revision);
        let files = &mut shared.lock().unwrap().files;
        let file = files.iter_mut().find(|file| file.repository == repository && file.path == path);
        let file = file.filter(|_| known)?;
        let breaks_off = file.breaks_off > 0 && request.range.as_deref() != Some("bytes=0-0");
        file.breaks_off -= usize::from(breaks_off);
        Some((file.clone(), breaks_off))
    });
    match found {
        Some((file, breaks_off)) => send_file(&mut stream, request, &file, breaks_off),
        None => respond(&mut stream, None),
    }
}

fn listing(repository: &str, revision: &str, files: &[File]) -> Option<String> {
    let siblings: Vec<_> = files
        .iter()
        .filter(|file| file.repository == repository)
        .map(|file| serde_json::json!({ "rfilename": file.path }))
        .collect();
    let known = !siblings.is_empty() && ["main", COMMIT].contains(&revision);
    known.then(|| serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string())
}

fn respond(stream: &mut TcpStream, body: Option<String>) -> std::io::Result<()> {
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn send_file(
    stream: &mut TcpStream,
    request: &Request,
    file: &File,
    breaks_off: bool,
) -> std::io::Result<()> {
    let content = file.sends.as_ref().unwrap_or(&file.content);
    let total = content.len();
    let range =
        request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (start, end) = range.unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(total, |last: usize| (last + 1).min(total));
    let part = &content[start.min(end)..end];
    let (length, last, etag) = (part.len(), end.saturating_sub(1), &file.etag);
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n\
         content-range: bytes {start}-{last}/{total}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(if breaks_off { &part[..length / 2] } else { part })
}
