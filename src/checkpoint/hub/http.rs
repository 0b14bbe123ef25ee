//! Requests to the hub: who gets the token, which redirects are followed, how long anything may take and how much may come.

use super::answer::FileHeaders;
use super::cache::login_token;
use super::transfer::Failure;
use std::io::Read;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use ureq::http::{HeaderValue, Response};
use ureq::{Agent, Body};
use url::Url;

/// How long a connection may take to answer, and a download may stand still, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most redirects on the way to an answer.
const REDIRECTS: usize = 5;
/// The longest answer that is no file.
const LONGEST_ANSWER: u64 = 32 << 20;

/// A client of one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    token: Option<HeaderValue>,
    patience: Duration,
}

/// An answer, and what the hub said about the file on the way to it.
pub(super) struct Answer {
    pub response: Response<Body>,
    pub headers: FileHeaders,
    /// Who gave it.
    pub url: Url,
}

impl Client {
    /// Reads `HF_ENDPOINT` and `HF_TOKEN` (else the token that `hf auth login` left); connects to nothing yet.
    pub fn from_env() -> Result<Self, Failure> {
        let set = |name| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let patience =
            set("HF_HUB_DOWNLOAD_TIMEOUT").map(|text| seconds(&text)).transpose()?.unwrap_or(PATIENCE);
        Self::new(&endpoint, set("HF_TOKEN").or_else(login_token).as_deref(), patience)
    }

    /// A client of the hub at `endpoint`, which alone gets the `token`.
    pub fn new(endpoint: &str, token: Option<&str>, patience: Duration) -> Result<Self, Failure> {
        let open = |url: &Url| is_web(url) && url.username().is_empty() && url.password().is_none();
        let url = Url::parse(endpoint).ok().filter(open);
        // It may hold a password, which no message repeats.
        let url = url.ok_or_else(|| {
            Failure::local(
                "HF_ENDPOINT is not the address of a hub, as https://huggingface.co is, without a password in it; correct or \
                 unset it",
            )
        })?;
        let token = token.map(bearer).transpose()?;
        if token.is_some() && url.scheme() == "http" {
            tracing::warn!("the token goes to {endpoint} unencrypted; use https, or unset HF_TOKEN");
        }
        let limit = Some(patience);
        let config = Agent::config_builder()
            .max_redirects(0) // followed here, where it is known who may see the token
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("diffmas/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(limit)
            .timeout_connect(limit)
            .timeout_send_request(limit)
            .timeout_recv_response(limit)
            .timeout_per_read(limit)
            .build();
        Ok(Self { agent: config.new_agent(), endpoint: url, token, patience })
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// How long anything may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// An address below the endpoint.
    pub fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("an address with a host has a path").pop_if_empty().extend(parts);
        url
    }

    /// The whole of a short answer.
    pub fn text(&self, url: Url) -> Result<Vec<u8>, Failure> {
        let until = Instant::now() + self.patience;
        let answer = self.get(url, None)?;
        let mut body = answer.response.into_body().into_reader().take(LONGEST_ANSWER + 1);
        let mut text = Vec::new();
        let mut buffer = [0; 1 << 14];
        loop {
            match body.read(&mut buffer).map_err(|error| self.broken(&answer.url, error.into()))? {
                0 if text.len() as u64 > LONGEST_ANSWER => {
                    return Err(Failure::Odd(format!("answers with more than {LONGEST_ANSWER} bytes")));
                }
                0 => return Ok(text),
                count => text.extend_from_slice(&buffer[..count]),
            }
            if Instant::now() > until {
                return Err(self.too_slow(&answer.url));
            }
        }
    }

    /// The answer at the end of all redirects; of a file, the bytes `range`.
    pub fn get(&self, mut url: Url, range: Option<&str>) -> Result<Answer, Failure> {
        let until = Instant::now() + self.patience;
        let mut headers = FileHeaders::default();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&url, range)?;
            if self.is_own(&url) {
                headers.add(|name| response.headers().get(name)?.to_str().ok());
            }
            match response.status().as_u16() {
                200 | 206 => return plain(Answer { response, headers, url }),
                301 | 302 | 303 | 307 | 308 => url = target(&url, &response)?,
                status => return Err(Failure::Refused(status)),
            }
            if Instant::now() > until {
                return Err(self.too_slow(&url));
            }
        }
        Err(Failure::Odd(format!("redirects more than {REDIRECTS} times")))
    }

    fn ask(&self, url: &Url, range: Option<&str>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url.as_str());
        if let Some(token) = self.token.as_ref().filter(|_| self.is_own(url)) {
            request = request.header("authorization", token);
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.call().map_err(|error| self.broken(url, error))
    }

    /// Whether scheme, host and port are those of the endpoint.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// A connection that does not work.
    pub fn broken(&self, url: &Url, error: ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(_) => self.too_slow(url),
            error => Failure::Broken(format!("{}: {error}", url.origin().ascii_serialization())),
        }
    }

    /// An answer that does not come or end in time.
    pub fn too_slow(&self, url: &Url) -> Failure {
        let (who, seconds) = (url.origin().ascii_serialization(), self.patience.as_secs());
        Failure::Broken(format!(
            "{who} said next to nothing for {seconds} seconds (HF_HUB_DOWNLOAD_TIMEOUT can be more)"
        ))
    }
}

/// What `HF_HUB_DOWNLOAD_TIMEOUT` says.
fn seconds(text: &str) -> Result<Duration, Failure> {
    let seconds = text.parse::<NonZeroU32>().map_err(|_| {
        Failure::local(format!(
            "HF_HUB_DOWNLOAD_TIMEOUT is `{text}`, not a number of seconds from 1; correct or unset it"
        ))
    })?;
    Ok(Duration::from_secs(seconds.get().into()))
}

/// Whether this is an address of the web.
fn is_web(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme()) && url.has_host()
}

/// The header that shows a token.
fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        Failure::local(
            "the token in HF_TOKEN or of `hf auth login` has characters that no token has; copy it anew",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a redirect leads.
fn target(url: &Url, response: &Response<Body>) -> Result<Url, Failure> {
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let Some(location) = location else { return Err(Failure::Odd("redirects to nowhere".into())) };
    let next = url.join(location).ok().filter(is_web);
    match next.filter(|next| next.scheme() == "https" || url.scheme() == "http") {
        Some(next) => Ok(next),
        None => {
            let shown: String = location.chars().take(200).collect();
            Err(Failure::Odd(format!("redirects to {shown:?}, which is not followed")))
        }
    }
}

/// The answer, if its body is the content itself.
fn plain(answer: Answer) -> Result<Answer, Failure> {
    match answer.response.headers().get("content-encoding") {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Failure::Odd(format!("answers in the encoding {coding:?}, which was not asked for")))
        }
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str, token: Option<&str>) -> Result<Client, Failure> {
        Client::new(endpoint, token, PATIENCE)
    }

    #[test]
    fn addresses_are_escaped_and_lie_below_the_endpoint() {
        for endpoint in ["https://hub.example/mirror", "https://hub.example/mirror/"] {
            let client = client(endpoint, None).unwrap();
            assert_eq!(client.endpoint(), "https://hub.example/mirror");
            let url = client.url(["o", "n", "resolve", "refs/pr/1", "a b?#%.gguf"]);
            assert_eq!(
                url.as_str(),
                "https://hub.example/mirror/o/n/resolve/refs%2Fpr%2F1/a%20b%3F%23%25.gguf"
            );
        }
    }

    #[test]
    fn only_scheme_host_and_port_of_the_endpoint_are_its_own() {
        let client = client("https://hub.example/mirror", Some("t")).unwrap();
        for (url, own) in [
            ("https://hub.example/else/where", true),
            ("https://HUB.example:443/", true),
            ("http://hub.example/", false),
            ("https://hub.example:444/", false),
            ("https://cdn.hub.example/", false),
            ("https://hub.example@evil.example/", false),
        ] {
            assert_eq!(client.is_own(&Url::parse(url).unwrap()), own, "{url}");
        }
    }

    #[test]
    fn endpoints_and_tokens_that_are_none_are_refused() {
        for (endpoint, token) in [
            ("", None),
            ("hub", None),
            ("file:///etc", None),
            ("http://u:p@hub", None),
            ("http://hub", Some("a\nb")),
        ] {
            assert!(matches!(client(endpoint, token), Err(Failure::Local(_))), "{endpoint}");
        }
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds() {
        assert_eq!(seconds("60").unwrap(), Duration::from_secs(60));
        for text in ["0", "-1", "1.5", "x", "99999999999"] {
            assert!(matches!(seconds(text), Err(Failure::Local(_))), "{text}");
        }
    }

    #[test]
    fn redirects_do_not_leave_encryption() {
        let redirect = |from: &str, to: &str| {
            let response = Response::builder().header("location", to).body(Body::builder().data(""));
            target(&Url::parse(from).unwrap(), &response.unwrap()).map(String::from).ok()
        };
        assert_eq!(redirect("https://a/b/c", "../d").as_deref(), Some("https://a/d"));
        assert_eq!(redirect("http://a/b", "https://c/").as_deref(), Some("https://c/"));
        for (from, to) in
            [("https://a/b", "http://a/b"), ("https://a/b", "ftp://a/b"), ("http://a/", "http://")]
        {
            assert_eq!(redirect(from, to), None, "{to}");
        }
    }
}
