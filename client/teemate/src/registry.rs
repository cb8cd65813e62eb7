//! Pushing an image to a registry, without a daemon.
//!
//! Source: OCI Distribution Specification 1.1 (pushing blobs and manifests); the tokens of the CNCF Distribution project's `auth/token`.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::http::{Method, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::oci::{Blob, Image};

/// How long one request may take; a layer is no larger than a function's code.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest answer that is read.
const ANSWER_MAX: u64 = 1 << 20;
/// What `docker login` keeps is asked for under this name.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error("{0:?} is no image in a registry: write registry.example/team/function:tag")]
    Name(String),
    /// Nobody answers, or not as HTTP.
    #[error("the registry {registry} can't be reached: {reason}")]
    Unreachable {
        /// Which.
        registry: String,
        /// Why.
        reason: String,
    },
    /// It wants to know who asks, or knows and does not let them.
    #[error(
        "the registry {registry} does not let {who} push {repository}: log in with `docker login`, or give --username and --password-file"
    )]
    Denied {
        /// Which.
        registry: String,
        /// Who asked.
        who: String,
        /// What it would have been pushed to.
        repository: String,
    },
    /// It answers something else.
    #[error("the registry {registry} refuses the {what}: HTTP {status}: {said}")]
    Refused {
        /// Which.
        registry: String,
        /// What was sent.
        what: &'static str,
        /// The answer's status.
        status: u16,
        /// What it says of the reason.
        said: String,
    },
    /// A certificate or a file of credentials that can't be read.
    #[error("{0}")]
    Configuration(String),
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port if one is given.
    pub registry: String,
    /// Path within.
    pub repository: String,
    /// Tag.
    pub tag: String,
}

impl Reference {
    /// Reads `registry/repository:tag`. Without a registry it is Docker's, as everywhere; without a tag it is `latest`.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn parse(name: &str) -> Result<Reference, Error> {
        let wrong = || Error::Name(name.to_owned());
        let (first, rest) = name.split_once('/').unwrap_or(("", name));
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (registry, path) = if is_host { (first, rest) } else { ("docker.io", name) };
        let (path, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
        let part = |part: &str| {
            let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
            part.bytes().all(fits) && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let tag_fits = (1..=128).contains(&tag.len()) && tag.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        let host_fits = registry.bytes().all(|c| c.is_ascii_alphanumeric() || b".:-[]".contains(&c));
        if !tag_fits || !host_fits || path.len() > 255 || !path.split('/').all(part) {
            return Err(wrong());
        }
        let repository = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        Ok(Reference { registry: registry.to_owned(), repository, tag: tag.to_owned() })
    }

    /// Where its registry answers.
    fn host(&self) -> &str {
        if self.registry == "docker.io" { "registry-1.docker.io" } else { &self.registry }
    }
}

/// Who pushes.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl Credentials {
    /// What `docker login` kept for this registry, in a file such as `~/.docker/config.json`. Helpers of its are not asked.
    ///
    /// # Errors
    /// [`Error::Configuration`] when the file is there and is none.
    pub fn of_docker(file: &Path, reference: &Reference) -> Result<Option<Credentials>, Error> {
        let Ok(text) = std::fs::read_to_string(file) else { return Ok(None) };
        let wrong = |why: &str| Error::Configuration(format!("{}: {why}", file.display()));
        let all: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
        let name = if reference.registry == "docker.io" { DOCKER_HUB } else { &reference.registry };
        let Some(auth) = all["auths"][name]["auth"].as_str() else { return Ok(None) };
        let pair = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.ok_or_else(|| wrong(&format!("what it keeps for {name} is not base64")))?;
        let (username, password) =
            pair.split_once(':').ok_or_else(|| wrong(&format!("what it keeps for {name} is no name and password")))?;
        Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }))
    }

    fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

/// A registry that one image is pushed to.
pub struct Registry {
    agent: Agent,
    reference: Reference,
    base: String,
    credentials: Option<Credentials>,
    /// What was asked for, once the registry wanted it.
    authorization: Option<String>,
}

impl Registry {
    /// Nothing is asked yet. `plain`: by HTTP without TLS. `authority`: a certificate (PEM) to trust instead of the web's authorities.
    ///
    /// # Errors
    /// [`Error::Configuration`] when that is none.
    pub fn new(reference: Reference, credentials: Option<Credentials>, plain: bool, authority: Option<&[u8]>) -> Result<Registry, Error> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = authority {
            let certificate = Certificate::from_pem(pem)
                .map_err(|error| Error::Configuration(format!("the registry's authority is no certificate in PEM: {error}")))?;
            tls = tls.root_certs(RootCerts::from(vec![certificate]));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .user_agent(concat!("teemate/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let base = format!("{}://{}", if plain { "http" } else { "https" }, reference.host());
        Ok(Registry { agent, reference, base, credentials, authorization: None })
    }

    /// Pushes an image: what the registry has already is not sent. Gives the digest of its manifest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn push(&mut self, image: &Image) -> Result<String, Error> {
        let repository = format!("/v2/{}", self.reference.repository);
        for blob in image.blobs() {
            self.push_blob(&repository, blob)?;
        }
        let manifest = image.manifest();
        let path = format!("{repository}/manifests/{}", self.reference.tag);
        let answer = self.ask(Method::PUT, &path, Some((&manifest.media_type, &manifest.content)))?;
        self.expect(answer, &[201], "manifest")?;
        Ok(manifest.digest.clone())
    }

    fn push_blob(&mut self, repository: &str, blob: &Blob) -> Result<(), Error> {
        let there = self.ask(Method::HEAD, &format!("{repository}/blobs/{}", blob.digest), None)?;
        if there.status() == 200 {
            return Ok(());
        }
        let begun = self.ask(Method::POST, &format!("{repository}/blobs/uploads/"), Some(("application/octet-stream", &[])))?;
        let begun = self.expect(begun, &[202], "beginning of an upload")?;
        let location = begun.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let location = self.within(location).ok_or_else(|| Error::Refused {
            registry: self.reference.registry.clone(),
            what: "beginning of an upload",
            status: begun.status().as_u16(),
            said: "it names no place for it at the same registry".to_owned(),
        })?;
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={}", blob.digest);
        let answer = self.ask(Method::PUT, &path, Some(("application/octet-stream", &blob.content)))?;
        self.expect(answer, &[201, 204], "layer").map(drop)
    }

    /// The path of a place for an upload; credentials go nowhere else than to the registry itself.
    fn within(&self, location: &str) -> Option<String> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(location.to_owned());
        }
        let (there, here) = (location.parse::<Uri>().ok()?, self.base.parse::<Uri>().ok()?);
        let same = there.scheme() == here.scheme() && there.authority() == here.authority();
        same.then(|| there.path_and_query().map(ToString::to_string)).flatten()
    }

    /// One request; where the registry wants to know who asks, another.
    fn ask(&mut self, method: Method, path: &str, body: Option<(&str, &[u8])>) -> Result<Response<Body>, Error> {
        let answer = self.send(method.clone(), path, body)?;
        if answer.status() != 401 || self.authorization.is_some() {
            return self.let_in(answer);
        }
        let wish = answer.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        self.authorization = self.authorize(&wish)?;
        let answer = self.send(method, path, body)?;
        self.let_in(answer)
    }

    fn let_in(&self, answer: Response<Body>) -> Result<Response<Body>, Error> {
        if [401, 403].contains(&answer.status().as_u16()) { Err(self.denied()) } else { Ok(answer) }
    }

    fn send(&self, method: Method, path: &str, body: Option<(&str, &[u8])>) -> Result<Response<Body>, Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = match body {
            Some((kind, content)) => request.header("Content-Type", kind).body(content).map(|request| self.agent.run(request)),
            None => request.body(()).map(|request| self.agent.run(request)),
        };
        answer.map_err(|error| self.unreachable(&error))?.map_err(|error| self.unreachable(&error))
    }

    /// What proves who asks: a token from where the registry sends us, or the credentials themselves.
    fn authorize(&self, wish: &str) -> Result<Option<String>, Error> {
        let Some(challenge) = wish.strip_prefix("Bearer ") else {
            return self.credentials.as_ref().map(|credentials| Some(credentials.header())).ok_or_else(|| self.denied());
        };
        let realm = parameter(challenge, "realm").ok_or_else(|| self.denied())?;
        // Who asks for a password in the clear over the network does not get it.
        if !realm.starts_with("https://") && !self.base.starts_with("http://") {
            return Err(self.denied());
        }
        let mut request = self.agent.get(&realm).query("scope", format!("repository:{}:pull,push", self.reference.repository));
        if let Some(service) = parameter(challenge, "service") {
            request = request.query("service", service);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header("Authorization", credentials.header());
        }
        let answer = request.call().map_err(|error| self.unreachable(&error))?;
        if answer.status() != 200 {
            return Err(self.denied());
        }
        let text = read(answer);
        let token = serde_json::from_str::<Value>(&text).ok();
        let token = token.as_ref().and_then(|token| token["token"].as_str().or(token["access_token"].as_str()));
        token.map(|token| Some(format!("Bearer {token}"))).ok_or_else(|| self.denied())
    }

    fn expect(&self, answer: Response<Body>, statuses: &[u16], what: &'static str) -> Result<Response<Body>, Error> {
        let status = answer.status().as_u16();
        if statuses.contains(&status) {
            return Ok(answer);
        }
        let said = read(answer).chars().take(300).collect::<String>();
        Err(Error::Refused { registry: self.reference.registry.clone(), what, status, said: said.trim().to_owned() })
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Unreachable { registry: self.reference.registry.clone(), reason: error.to_string() }
    }

    fn denied(&self) -> Error {
        let who = self.credentials.as_ref().map_or_else(|| "anybody".to_owned(), |credentials| format!("{:?}", credentials.username));
        Error::Denied { registry: self.reference.registry.clone(), who, repository: self.reference.repository.clone() }
    }
}

fn read(mut answer: Response<Body>) -> String {
    answer.body_mut().with_config().limit(ANSWER_MAX).read_to_string().unwrap_or_default()
}

/// A parameter of a challenge (RFC 9110, 11.2): `name="value"`.
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some((before, after)) = rest.split_once("=\"") {
        let (value, next) = after.split_once('"')?;
        if before.trim_start_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_does() {
        let of = |name: &str| {
            let Reference { registry, repository, tag } = Reference::parse(name).unwrap();
            format!("{registry} {repository} {tag}")
        };
        assert_eq!(of("registry.example/team/function:1"), "registry.example team/function 1");
        assert_eq!(of("localhost:5000/f"), "localhost:5000 f latest");
        assert_eq!(of("ada/f:2"), "docker.io ada/f 2");
        assert_eq!(of("f"), "docker.io library/f latest");
        for wrong in ["", "a b", "registry.example/UPPER:1", "registry.example/f:", "registry.example//f", "x.y/../f", "x.y/f:a/b"] {
            assert!(Reference::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_challenge_has_parameters() {
        let text = r#"realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        assert_eq!(parameter(text, "realm").as_deref(), Some("https://auth.example/token"));
        assert_eq!(parameter(text, "scope").as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!((parameter(text, "error"), parameter("realm=\"x", "realm")), (None, None));
    }

    #[test]
    fn credentials_go_to_the_registry_alone() {
        let registry = Registry::new(Reference::parse("registry.example/a/b:1").unwrap(), None, false, None).unwrap();
        assert_eq!(registry.within("/v2/a/b/uploads/1?x=y").as_deref(), Some("/v2/a/b/uploads/1?x=y"));
        assert_eq!(registry.within("https://registry.example/v2/u").as_deref(), Some("/v2/u"));
        for elsewhere in ["https://other.example/v2/u", "http://registry.example/v2/u", "//other.example/u", "", "nonsense"] {
            assert_eq!(registry.within(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn what_docker_login_kept_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let auth = STANDARD.encode("ada:secret:word");
        std::fs::write(file.path(), format!(r#"{{"auths":{{"registry.example":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        let of = |name: &str| Credentials::of_docker(file.path(), &Reference::parse(name).unwrap());
        let found = of("registry.example/f:1").unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("ada", "secret:word"));
        assert!(of("other.example/f:1").unwrap().is_none());
        std::fs::write(file.path(), "{").unwrap();
        assert!(of("registry.example/f:1").is_err());
        assert!(Credentials::of_docker(Path::new("/absent"), &Reference::parse("f").unwrap()).unwrap().is_none());
    }
}
