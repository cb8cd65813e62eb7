//! Who asks: Basic authentication with `uuid:key`.
//!
//! Looking up an owner may have to wait for the store, so it runs on a thread that may block, a few at a time; who was found stays known
//! for some seconds under a keyed digest of the credentials. The keys themselves are kept nowhere and shown nowhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ring::hmac;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::lock;
use crate::platform::Accounts;
use crate::router::{Owner, Response};

/// How long who was found stays known: so long works a key that was taken back.
pub const MEMORY: Duration = Duration::from_secs(10);
/// Entries of the memory.
const MAX_KNOWN: usize = 4096;
/// Look-ups at one time.
const LOOK_UPS: usize = 2;
/// Longest credentials, decoded.
const MAX_CREDENTIALS: usize = 1024;

/// As OpenWhisk names it.
const CHALLENGE: &str = "Basic realm=\"OpenWhisk secure realm\"";

/// Some clients leave the padding away.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Why nobody was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// There were no credentials.
    Missing,
    /// They are not those of anybody.
    Rejected,
}

impl Nobody {
    /// The answer, as OpenWhisk gives it.
    pub fn response(self) -> Response {
        let mut response = Response::error(
            StatusCode::UNAUTHORIZED,
            match self {
                Nobody::Missing => "The resource requires authentication, which was not supplied with the request",
                Nobody::Rejected => "The supplied authentication is invalid",
            },
        );
        response.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        response
    }
}

/// Finds owners by their credentials.
pub struct Authenticator {
    accounts: Arc<dyn Accounts>,
    key: hmac::Key,
    known: Mutex<HashMap<[u8; 32], (Owner, Instant)>>,
    look_ups: Arc<Semaphore>,
}

impl Authenticator {
    /// Over these accounts. `None` when there are no random numbers.
    pub fn new(accounts: Arc<dyn Accounts>) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()?;
        Some(Authenticator { accounts, key, known: Mutex::default(), look_ups: Arc::new(Semaphore::new(LOOK_UPS)) })
    }

    /// Whose request this is.
    ///
    /// # Errors
    /// [`Nobody`].
    pub async fn owner(&self, headers: &HeaderMap) -> Result<Owner, Nobody> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or(Nobody::Missing)?;
        if values.next().is_some() {
            return Err(Nobody::Rejected);
        }
        let (uuid, key) = credentials(value).ok_or(Nobody::Rejected)?;
        let digest = self.digest(&uuid, &key);
        if let Some((owner, until)) = lock(&self.known).get(&digest)
            && *until > Instant::now()
        {
            return Ok(owner.clone());
        }
        // A place first: what is given up while it waits for one leaves nothing behind.
        let place = self.look_ups.clone().acquire_owned().await.map_err(|_| Nobody::Rejected)?;
        let accounts = self.accounts.clone();
        let found = tokio::task::spawn_blocking(move || {
            let _place = place;
            accounts.authenticate(&uuid, &key)
        });
        let owner = found.await.ok().flatten().ok_or(Nobody::Rejected)?;
        self.remember(digest, owner.clone());
        Ok(owner)
    }

    /// Forgets everybody, so that a key that was taken back is refused at once.
    pub fn forget(&self) {
        lock(&self.known).clear();
    }

    fn remember(&self, digest: [u8; 32], owner: Owner) {
        let now = Instant::now();
        let mut known = lock(&self.known);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < MAX_KNOWN {
            known.insert(digest, (owner, now + MEMORY));
        }
    }

    fn digest(&self, uuid: &str, key: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(uuid.len() as u64).to_le_bytes());
        context.update(uuid.as_bytes());
        context.update(key.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// `uuid` and `key` of a header.
fn credentials(value: &HeaderValue) -> Option<(String, String)> {
    let value = value.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_CREDENTIALS * 4 / 3 + 4 {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (uuid, key) = decoded.split_once(':')?;
    Some((uuid.to_owned(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::platform::{ClaimError, Claimed};

    /// Knows Ada, and counts the questions.
    #[derive(Default)]
    struct Ada(AtomicUsize);

    impl Accounts for Ada {
        fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner> {
            self.0.fetch_add(1, SeqCst);
            (uuid == "u-1" && key == "k:2").then(|| Owner { namespace: "ada".into(), uuid: uuid.into() })
        }

        fn claim(&self, _token: &str) -> Result<Claimed, ClaimError> {
            Err(ClaimError::Refused("nobody is invited".into()))
        }
    }

    fn headers(value: &str) -> HeaderMap {
        [(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn basic(text: &str) -> HeaderMap {
        headers(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn ada_is_found_and_remembered_for_a_while() {
        run(async {
            let ada = Arc::new(Ada::default());
            let authenticator = Authenticator::new(ada.clone()).unwrap();
            for _ in 0..3 {
                assert_eq!(authenticator.owner(&basic("u-1:k:2")).await.unwrap().namespace, "ada");
            }
            assert_eq!(ada.0.load(SeqCst), 1);
            tokio::time::advance(MEMORY).await;
            authenticator.owner(&basic("u-1:k:2")).await.unwrap();
            assert_eq!(ada.0.load(SeqCst), 2);
            authenticator.forget();
            authenticator.owner(&basic("u-1:k:2")).await.unwrap();
            assert_eq!(ada.0.load(SeqCst), 3);
        });
    }

    #[test]
    fn nobody_else_is_found_and_nothing_of_them_remembered() {
        run(async {
            let ada = Arc::new(Ada::default());
            let authenticator = Authenticator::new(ada.clone()).unwrap();
            authenticator.owner(&basic("u-1:k:2")).await.unwrap();
            for wrong in ["u-1:k:3", "u-1:", "u-1k:2", ":", "", "u-1:k:2 ", "u-1:k:2\0"] {
                assert_eq!(authenticator.owner(&basic(wrong)).await, Err(Nobody::Rejected), "{wrong}");
            }
            let mut twice = basic("u-1:k:2");
            twice.append(header::AUTHORIZATION, HeaderValue::from_static("Basic dS0xOmk="));
            for wrong in [headers("Basic"), headers("Bearer dS0xOms6Mg=="), headers("Basic !"), headers("Basic /w=="), twice] {
                assert_eq!(authenticator.owner(&wrong).await, Err(Nobody::Rejected));
            }
            assert_eq!(authenticator.owner(&headers(&format!("Basic {}", "A".repeat(8000)))).await, Err(Nobody::Rejected));
            assert_eq!(authenticator.owner(&HeaderMap::new()).await, Err(Nobody::Missing));
            assert_eq!(lock(&authenticator.known).len(), 1);
            assert_eq!(authenticator.owner(&headers("basic dS0xOms6Mg")).await.unwrap().uuid, "u-1");
        });
    }

    #[test]
    fn memory_is_bounded() {
        run(async {
            let authenticator = Authenticator::new(Arc::new(Ada::default())).unwrap();
            let owner = Owner { namespace: "n".into(), uuid: "u".into() };
            for index in 0..MAX_KNOWN + 10 {
                authenticator.remember(authenticator.digest("u", &index.to_string()), owner.clone());
            }
            assert_eq!(lock(&authenticator.known).len(), MAX_KNOWN);
            tokio::time::advance(MEMORY).await;
            authenticator.remember([0; 32], owner);
            assert_eq!(lock(&authenticator.known).len(), 1);
        });
    }

    #[test]
    fn the_answer_is_openwhisks() {
        let response = Nobody::Rejected.response();
        assert_eq!(response.status, 401);
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["error"], "The supplied authentication is invalid");
        assert_eq!(body["code"].as_str().unwrap().len(), 32);
        assert!(response.headers.contains_key(header::WWW_AUTHENTICATE));
    }
}
