//! A Hugging Face hub of a few repositories on this machine, which can be told to break off or to refuse.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
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

/// An answer before it is given.
pub struct Reply {
    pub status: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// What `Content-Length` says.
    pub length: Option<u64>,
    /// Sent over and over after the body, until nobody listens.
    pub endless: Vec<u8>,
    /// Waited before the body, and before each piece of `endless`.
    pub pause: Duration,
}

impl Reply {
    /// Sets a header.
    pub fn set(&mut self, name: &'static str, value: impl ToString) {
        self.headers.retain(|header| header.0 != name);
        self.headers.push((name, value.to_string()));
    }

    /// Makes it a redirect.
    pub fn redirect(&mut self, to: &str) {
        (self.status, self.body, self.length) = ("302 Found".into(), Vec::new(), Some(0));
        self.set("Location", to);
    }
}

/// Changes the answer to `PATH RANGE`.
type Tamper = Box<dyn Fn(&str, &mut Reply) + Send>;

#[derive(Default)]
struct State {
    /// Files by `repository/path`.
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Tokens without which a repository is not given out.
    tokens: Mutex<BTreeMap<String, String>>,
    fates: Mutex<VecDeque<Fate>>,
    log: Mutex<Vec<String>>,
    seen: Mutex<Vec<String>>,
    tamper: Mutex<Option<Tamper>>,
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

    /// Changes every answer from now on.
    pub fn tamper(&self, how: impl Fn(&str, &mut Reply) + Send + 'static) {
        *self.state.tamper.lock().unwrap() = Some(Box::new(how));
    }

    /// Every token that was shown.
    pub fn tokens_seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
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
        let path = request.split(' ').nth(1)?.split('?').next()?.to_string();
        let (mut range, mut token) = (None, None);
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "range" => range = value.strip_prefix("bytes=").map(String::from),
                "authorization" => token = value.strip_prefix("Bearer ").map(String::from),
                _ => {}
            }
        }
        let asked = format!("{path} {}", range.clone().unwrap_or_default());
        self.log.lock().unwrap().push(asked.clone());
        self.seen.lock().unwrap().extend(token.clone());
        let respond = |stream: &TcpStream, status: &str, headers: &[(&'static str, String)], body: &[u8]| {
            self.respond(stream, &asked, status, headers, body)
        };
        let repository =
            path.trim_start_matches("/api/").trim_start_matches("models/").trim_start_matches('/');
        // A data set's name begins with `datasets/`, here as in addresses.
        let parts = if repository.starts_with("datasets/") { 3 } else { 2 };
        let repository: String = repository.splitn(parts + 1, '/').take(parts).collect::<Vec<_>>().join("/");
        if self.tokens.lock().unwrap().get(&repository).is_some_and(|needed| Some(needed) != token.as_ref()) {
            return respond(&stream, "401 Unauthorized", &[], b"");
        }
        let files = self.files.lock().unwrap().clone();
        let own = |key: &String| key.starts_with(&format!("{repository}/"));
        if path.starts_with("/api/") {
            let own = files.iter().filter(|(key, _)| own(key));
            let sibling = |(key, content): (&String, &Vec<u8>)| json!({"rfilename": key[repository.len() + 1..], "size": content.len()});
            let siblings: Vec<_> = own.map(sibling).collect();
            if siblings.is_empty() || path.ends_with("/revision/v9") {
                return respond(&stream, "404 Not Found", &[], b"");
            }
            let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return respond(&stream, "200 OK", &[], body.as_bytes());
        }
        if let Some(hash) = path.strip_prefix("/cdn/") {
            let content = files.values().find(|content| sha256(content) == hash)?;
            return self.deliver(&stream, &asked, content, &range?);
        }
        let (_, rest) = path.split_once("/resolve/")?;
        let (_, file) = rest.split_once('/')?;
        let Some(content) = files.get(&format!("{repository}/{file}")) else {
            return respond(&stream, "404 Not Found", &[], b"");
        };
        let commit = ("X-Repo-Commit", COMMIT.to_string());
        let hash = sha256(content);
        if [".safetensors", ".gguf", ".parquet"].iter().any(|end| file.ends_with(end)) {
            // Large files lie elsewhere, as on the real hub.
            let place = ("Location", format!("http://127.0.0.1:{}/cdn/{hash}", self.port));
            let etag = ("X-Linked-Etag", format!("\"{hash}\""));
            return respond(&stream, "302 Found", &[commit, place, etag], b"");
        }
        let etag = ("ETag", format!("\"{}\"", git_sha1(content)));
        let Some(range) = range else { return respond(&stream, "200 OK", &[commit, etag], content) };
        let part = requested(content, &range)?;
        let headers = [commit, etag, part.0];
        respond(&stream, "206 Partial Content", &headers, part.1)
    }

    fn deliver(&self, stream: &TcpStream, asked: &str, content: &[u8], range: &str) -> Option<()> {
        let fate = if range.ends_with('-') { self.fates.lock().unwrap().pop_front() } else { None };
        let (header, part) = requested(content, range)?;
        match fate {
            None => self.respond(stream, asked, "206 Partial Content", &[header], part),
            Some(Fate::Refused(status)) => self.respond(stream, asked, &format!("{status} No"), &[], b""),
            Some(Fate::Cut(count)) => {
                let mut stream = stream;
                let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n", part.len());
                write!(stream, "{head}{}: {}\r\nConnection: close\r\n\r\n", header.0, header.1).ok()?;
                stream.write_all(&part[..count]).ok()
            }
        }
    }

    fn respond(
        &self,
        mut stream: &TcpStream,
        asked: &str,
        status: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Option<()> {
        let (status, headers, body) = (status.to_string(), headers.to_vec(), body.to_vec());
        let length = Some(body.len() as u64);
        let mut reply = Reply { status, headers, body, length, endless: Vec::new(), pause: Duration::ZERO };
        if let Some(tamper) = self.tamper.lock().unwrap().as_ref() {
            tamper(asked, &mut reply);
        }
        reply.headers.extend(reply.length.map(|length| ("Content-Length", length.to_string())));
        let headers: String =
            reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "HTTP/1.1 {}\r\n{headers}Connection: close\r\n\r\n", reply.status).ok()?;
        std::thread::sleep(reply.pause);
        stream.write_all(&reply.body).ok()?;
        while !reply.endless.is_empty() {
            stream.write_all(&reply.endless).ok()?;
            std::thread::sleep(reply.pause);
        }
        Some(())
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

/// The name of large `content` in the hub's cache.
pub fn sha256(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

/// The name of small `content` in the hub's cache.
pub fn git_sha1(content: &[u8]) -> String {
    let head = format!("blob {}\0", content.len());
    format!("{:x}", Sha1::new().chain_update(head).chain_update(content).finalize())
}
