//! A Hugging Face hub of a few repositories on this machine, which can be told to break off or to refuse.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha2::{Digest, Sha256};

/// The commit of every repository.
pub const COMMIT: &str = "c0ffee0000000000000000000000000000000000";

/// How the next download of weights goes; without any, it goes well.
pub enum Fate {
    /// The connection breaks after so many bytes.
    Cut(usize),
    /// The server refuses with this status.
    Refused(u16),
}

#[derive(Default)]
struct State {
    /// Files by `repository/path`.
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Tokens without which a repository is not given out.
    tokens: Mutex<BTreeMap<String, String>>,
    fates: Mutex<VecDeque<Fate>>,
    log: Mutex<Vec<String>>,
    port: u16,
}

/// The running server.
pub struct Hub {
    state: Arc<State>,
}

impl Hub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { port, ..State::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.answer(stream));
            }
        });
        Self { state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.state.port)
    }

    pub fn put(&self, repository: &str, file: &str, content: impl Into<Vec<u8>>) {
        self.state.files.lock().unwrap().insert(format!("{repository}/{file}"), content.into());
    }

    pub fn require_token(&self, repository: &str, token: &str) {
        self.state.tokens.lock().unwrap().insert(repository.into(), token.into());
    }

    pub fn next_downloads(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state.fates.lock().unwrap().extend(fates);
    }

    /// Every request so far, `PATH RANGE`.
    pub fn log(&self) -> Vec<String> {
        self.state.log.lock().unwrap().clone()
    }
}

impl State {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        let path = request.split(' ').nth(1)?.to_string();
        let (mut range, mut token) = (None, None);
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "range" => range = value.strip_prefix("bytes=").map(String::from),
                "authorization" => token = value.strip_prefix("Bearer ").map(String::from),
                _ => {}
            }
        }
        self.log.lock().unwrap().push(format!("{path} {}", range.clone().unwrap_or_default()));
        let repository = path.trim_start_matches("/api/models/").trim_start_matches('/');
        let repository: String = repository.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        if self.tokens.lock().unwrap().get(&repository).is_some_and(|needed| Some(needed) != token.as_ref()) {
            return respond(&stream, "401 Unauthorized", &[], b"");
        }
        let files = self.files.lock().unwrap().clone();
        let own = |key: &String| key.starts_with(&format!("{repository}/"));
        if path.starts_with("/api/models/") {
            let names = files.keys().filter(|key| own(key)).map(|key| &key[repository.len() + 1..]);
            let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
            if siblings.is_empty() || path.ends_with("/revision/v9") {
                return respond(&stream, "404 Not Found", &[], b"");
            }
            let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return respond(&stream, "200 OK", &[], body.as_bytes());
        }
        if let Some(hash) = path.strip_prefix("/cdn/") {
            let content = files.values().find(|content| sha256(content) == hash)?;
            return self.deliver(&stream, content, &range?);
        }
        let (_, rest) = path.split_once("/resolve/")?;
        let (_, file) = rest.split_once('/')?;
        let Some(content) = files.get(&format!("{repository}/{file}")) else {
            return respond(&stream, "404 Not Found", &[], b"");
        };
        let commit = ("X-Repo-Commit", COMMIT.to_string());
        let hash = sha256(content);
        if file.ends_with(".safetensors") || file.ends_with(".gguf") {
            // Large files lie elsewhere, as on the real hub.
            let place = ("Location", format!("http://127.0.0.1:{}/cdn/{hash}", self.port));
            let etag = ("X-Linked-Etag", format!("\"{hash}\""));
            return respond(&stream, "302 Found", &[commit, place, etag], b"");
        }
        let part = requested(content, &range?)?;
        let headers = [commit, ("ETag", format!("\"{}\"", &hash[..40])), part.0];
        respond(&stream, "206 Partial Content", &headers, part.1)
    }

    fn deliver(&self, stream: &TcpStream, content: &[u8], range: &str) -> Option<()> {
        let fate = if range.ends_with('-') { self.fates.lock().unwrap().pop_front() } else { None };
        let (header, part) = requested(content, range)?;
        match fate {
            None => respond(stream, "206 Partial Content", &[header], part),
            Some(Fate::Refused(status)) => respond(stream, &format!("{status} No"), &[], b""),
            Some(Fate::Cut(count)) => {
                let mut stream = stream;
                let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n", part.len());
                write!(stream, "{head}{}: {}\r\nConnection: close\r\n\r\n", header.0, header.1).ok()?;
                stream.write_all(&part[..count]).ok()
            }
        }
    }
}

/// The part of `content` that `FROM-TO` or `FROM-` asks for, and its `Content-Range`.
fn requested<'a>(content: &'a [u8], range: &str) -> Option<((&'static str, String), &'a [u8])> {
    let (from, to) = range.split_once('-')?;
    let from: usize = from.parse().ok()?;
    let to = to.parse().map_or(content.len(), |to: usize| (to + 1).min(content.len()));
    let header = ("Content-Range", format!("bytes {from}-{}/{}", to - 1, content.len()));
    Some((header, &content[from..to]))
}

fn respond(mut stream: &TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) -> Option<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n")
        .ok()?;
    stream.write_all(body).ok()
}

/// The name of `content` in the hub's cache.
pub fn sha256(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}
