//! Secrets of actions: what their annotations say of them, and having them from the owner's key broker.
//!
//! A broker is asked by the first call that needs it, on a thread of its own, and once for all calls that come meanwhile; how many brokers
//! are asked at one time is bounded for each owner and for all. What is released stays in this memory for a while, and nowhere else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use teemate_control::function::{Failure, FailureKind};
use teemate_kbs::{Broker, KbsError, ResourceId};
use tokio::sync::{OnceCell, Semaphore, oneshot};

use super::entity::Action;
use super::lock;
use super::options::is_variable;
use super::parameters::Parameters;
use super::run::Run;
use super::{Whisk, space::Space};
use crate::platform::KeyBrokers;

/// Annotation: the key broker that has an action's secrets: an object of its `address` and its `roots` in PEM.
pub const BROKER: &str = "teemate-broker";
/// Annotation: the secrets of an action: an object from variables of its environment to names of resources.
pub const SECRETS: &str = "teemate-secrets";

/// Most secrets of one action.
const MOST: usize = 32;
/// Most bytes of them together.
const BYTES: usize = 256 << 10;
/// Most actions of one owner whose secrets are kept at one time.
const KEPT: usize = 32;
/// Most brokers that are asked at one time for one owner, and for all: each has a thread.
const ASKED: (usize, usize) = (2, 8);
/// The thread's stack: a handshake with the longest chain of certificates has room.
const STACK: usize = 1 << 20;

/// What an action needs of whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    broker: Broker,
    /// Variables of the environment, and what they hold.
    variables: Vec<(String, ResourceId)>,
}

impl Needs {
    /// Reads the annotations of an action; `None` when it has no secrets.
    ///
    /// # Errors
    /// A sentence about the one that cannot be read.
    pub fn of(annotations: &Parameters) -> Result<Option<Needs>, String> {
        let broker = annotations.get(BROKER).map(broker).transpose()?;
        let Some(secrets) = annotations.get(SECRETS) else { return Ok(None) };
        let wrong = |why: &dyn std::fmt::Display| format!("the annotation '{SECRETS}' must be an object of at most {MOST} names: {why}");
        let map = secrets.as_object().filter(|map| map.len() <= MOST).ok_or_else(|| wrong(&"it is none"))?;
        let mut variables = Vec::new();
        for (name, resource) in map {
            if !is_variable(name) {
                return Err(wrong(&format!("{name:?} is no name of a variable")));
            }
            let text = resource.as_str().ok_or_else(|| wrong(&format!("{name:?} has no name of a resource")))?;
            variables.push((name.clone(), text.parse::<ResourceId>().map_err(|error| wrong(&error))?));
        }
        if variables.is_empty() {
            return Ok(None);
        }
        // Whatever order the map has, the same needs are the same.
        variables.sort_by(|(one, _), (other, _)| one.cmp(other));
        let broker = broker.ok_or_else(|| format!("the annotation '{SECRETS}' needs '{BROKER}': who has them"))?;
        Ok(Some(Needs { broker, variables }))
    }

    /// The variables with what came for them.
    fn filled(&self, values: Vec<Vec<u8>>) -> Result<Variables, Failure> {
        let refused = |why: String| Failure::new(FailureKind::Denied, format!("the secrets from {}: {why}", self.broker));
        let bytes: usize = values.iter().map(Vec::len).sum();
        if bytes > BYTES || values.len() != self.variables.len() {
            return Err(refused(format!("they have {bytes} bytes, and at most {BYTES} may be all of an action's")));
        }
        let pair = |((name, resource), value): (&(String, ResourceId), Vec<u8>)| match String::from_utf8(value) {
            Ok(text) if !text.contains('\0') => Ok((name.clone(), text)),
            _ => Err(refused(format!("{resource} is no text, as a variable must be; put it there as base64"))),
        };
        self.variables.iter().zip(values).map(pair).collect::<Result<Vec<_>, _>>().map(Arc::new)
    }
}

fn broker(value: &Value) -> Result<Broker, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("the annotation '{BROKER}' must be an object of 'address' and 'roots': {why}");
    let map = value.as_object().filter(|map| map.len() == 2).ok_or_else(|| wrong(&"it is none"))?;
    let text = |key: &str| map.get(key).and_then(Value::as_str).ok_or_else(|| wrong(&format!("the text '{key}' is missing")));
    Broker::new(text("address")?, text("roots")?).map_err(|error| wrong(&error))
}

/// Takes out what only the owner of an action may see: whoever knows the name of a secret can have an action of his own ask for it.
pub fn hide(annotations: &mut Parameters) {
    annotations.remove(BROKER);
    annotations.remove(SECRETS);
}

/// Variables of an action's environment.
pub type Variables = Arc<Vec<(String, String)>>;

/// Whose secrets: no later owner of the same namespace is this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    namespace: String,
    owner: String,
    needs: Needs,
}

struct Kept {
    /// The lower, the longer it has been here.
    number: u64,
    released: OnceCell<Result<Variables, Failure>>,
}

/// Secrets that were released, and those that are being asked for.
pub struct Secrets {
    brokers: Arc<dyn KeyBrokers>,
    time: Duration,
    numbers: AtomicU64,
    kept: Arc<Mutex<HashMap<Name, Arc<Kept>>>>,
    overall: Arc<Semaphore>,
    owners: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Secrets {
    /// None yet; from these brokers, kept for so long.
    pub fn new(brokers: Arc<dyn KeyBrokers>, time: Duration) -> Self {
        let overall = Arc::new(Semaphore::new(ASKED.1));
        Secrets { brokers, time, numbers: AtomicU64::new(0), kept: Arc::default(), overall, owners: Mutex::default() }
    }

    /// What an action of this owner needs.
    ///
    /// # Errors
    /// Why it cannot be had, with the broker's name. The next call asks again.
    async fn of(&self, space: &Space, needs: Needs) -> Result<Variables, Failure> {
        let name = Name { namespace: space.name.clone(), owner: space.id.clone(), needs };
        let kept = self.entry(&name);
        let mut fresh = false;
        let release = async {
            fresh = true;
            self.release(&name).await
        };
        let released = kept.released.get_or_init(|| release).await.clone();
        if fresh {
            match &released {
                Ok(_) => {
                    let (all, time) = (self.kept.clone(), self.time);
                    tokio::spawn(async move {
                        tokio::time::sleep(time).await;
                        remove(&all, &name, &kept);
                    });
                }
                // Those who waited for the same have the same answer.
                Err(_) => remove(&self.kept, &name, &kept),
            }
        }
        released
    }

    fn entry(&self, name: &Name) -> Arc<Kept> {
        let mut all = lock(&self.kept);
        if let Some(kept) = all.get(name) {
            return kept.clone();
        }
        let own: Vec<_> = all.iter().filter(|(other, _)| other.owner == name.owner).map(|(other, kept)| (kept.number, other)).collect();
        if own.len() >= KEPT
            && let Some(oldest) = own.into_iter().min_by_key(|(number, _)| *number).map(|(_, oldest)| oldest.clone())
        {
            all.remove(&oldest);
        }
        let kept = Arc::new(Kept { number: self.numbers.fetch_add(1, Ordering::Relaxed), released: OnceCell::new() });
        all.insert(name.clone(), kept.clone());
        kept
    }

    async fn release(&self, name: &Name) -> Result<Variables, Failure> {
        let internal = |why: &str| Failure::new(FailureKind::Internal, why.to_owned());
        let own = {
            let mut owners = lock(&self.owners);
            owners.retain(|_, own| Arc::strong_count(own) > 1);
            owners.entry(name.owner.clone()).or_insert_with(|| Arc::new(Semaphore::new(ASKED.0))).clone()
        };
        // First the owner's: who has a slow broker waits for himself.
        let own = own.acquire_owned().await.map_err(|_| internal("nothing more is asked of key brokers"))?;
        let permits = (own, self.overall.clone().acquire_owned().await.map_err(|_| internal("nothing more is asked of key brokers"))?);
        let (brokers, Name { owner, needs, .. }) = (self.brokers.clone(), name.clone());
        let (done, answer) = oneshot::channel();
        let ask = move || {
            let resources: Vec<ResourceId> = needs.variables.iter().map(|(_, resource)| resource.clone()).collect();
            let released = brokers.release(&owner, &needs.broker, &resources).map_err(|error| failure(&needs.broker, &error));
            drop(done.send(released.and_then(|values| needs.filled(values))));
            drop(permits);
        };
        let spawned = std::thread::Builder::new().name("key-broker".to_owned()).stack_size(STACK).spawn(ask);
        spawned.map_err(|error| internal(&format!("there is no thread to ask the key broker: {error}")))?;
        answer.await.map_err(|_| internal("the key broker's answer was lost"))?
    }

    /// Forgets what was released for a namespace: the next call asks the broker.
    pub fn forget(&self, namespace: &str) {
        lock(&self.kept).retain(|name, _| name.namespace != namespace);
    }
}

/// Removes one, unless another has taken its place.
fn remove(all: &Mutex<HashMap<Name, Arc<Kept>>>, name: &Name, kept: &Arc<Kept>) {
    let mut all = lock(all);
    if all.get(name).is_some_and(|it| Arc::ptr_eq(it, kept)) {
        all.remove(name);
    }
}

/// What a broker's "no" is to the owner's call, and what a failure on the way to it.
fn failure(broker: &Broker, error: &KbsError) -> Failure {
    let kind = match error {
        KbsError::Connection(_) | KbsError::Quote(_) | KbsError::Random => FailureKind::Internal,
        _ => FailureKind::Denied,
    };
    Failure::new(kind, format!("no secrets from {broker}: {error}"))
}

impl Whisk {
    /// The secrets of an action, for a call of it.
    ///
    /// # Errors
    /// Why there are none. Who calls an action of somebody else's is not told.
    pub(super) async fn secrets(&self, run: &Run, action: &Action) -> Result<Variables, Failure> {
        let invalid = |why: String| Failure::new(FailureKind::Invalid, why);
        let Some(needs) = Needs::of(&action.head.annotations).map_err(invalid)? else { return Ok(Variables::default()) };
        let at = &action.head.at;
        let gone = |_| Failure::new(FailureKind::Internal, "the owner of this action is gone");
        let own = run.caller.name == at.namespace;
        let space = if own { run.caller.clone() } else { self.space(&at.namespace, &at.full()).await.map_err(gone)? };
        self.secrets.of(&space, needs).await.map_err(|failure| match own {
            true => failure,
            false => Failure::new(failure.kind, "its owner's key broker gives no secrets for it now"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use teemate_kbs::testing::Authority;

    use super::*;

    #[test]
    fn annotations_name_a_broker_and_what_is_asked_of_it() {
        let roots = Authority::new("a root").pem();
        let good = json!({ "address": "https://broker.example", "roots": roots });
        let with = |broker: &Value, secrets: Value| Needs::of(&Parameters::default().with(BROKER, broker.clone()).with(SECRETS, secrets));
        let needs = with(&good, json!({ "TOKEN": "kbs:///default/token/1", "KEY": "a/b/c" })).unwrap().unwrap();
        let variables: Vec<_> = needs.variables.iter().map(|(name, resource)| format!("{name} {resource}")).collect();
        assert_eq!(variables, ["KEY kbs:///a/b/c", "TOKEN kbs:///default/token/1"]);
        assert_eq!(with(&good, json!({})), Ok(None));
        assert_eq!(Needs::of(&Parameters::default().with(BROKER, good.clone())), Ok(None));
        for (broker, secrets, sentence) in [
            (good.clone(), json!([]), "it is none"),
            (good.clone(), json!({ "A": 1 }), "no name of a resource"),
            (good.clone(), json!({ "A": "a/b" }), "is not a resource"),
            (good.clone(), json!({ "A=B": "a/b/c" }), "no name of a variable"),
            (good.clone(), json!({ "__OW_NAMESPACE": "a/b/c" }), "no name of a variable"),
            (good.clone(), (0..33).map(|n| (format!("A{n}"), json!("a/b/c"))).collect(), "at most 32"),
            (json!("https://broker.example"), json!({}), "'address' and 'roots'"),
            (json!({ "address": "https://broker.example" }), json!({}), "it is none"),
            (json!({ "address": "https://broker.example", "root": roots }), json!({}), "'roots' is missing"),
            (json!({ "address": "http://broker.example", "roots": roots }), json!({}), "the host could play the broker"),
            (json!({ "address": "https://broker.example", "roots": "" }), json!({}), "no root certificate"),
        ] {
            let error = with(&broker, secrets.clone()).unwrap_err();
            assert!(error.contains(sentence), "{broker} {secrets}: {error}");
        }
        let error = Needs::of(&Parameters::default().with(SECRETS, json!({ "A": "a/b/c" }))).unwrap_err();
        assert!(error.contains("'teemate-broker'"), "{error}");
    }

    #[test]
    fn secrets_are_text_of_bounded_length() {
        let broker = Broker::new("https://b", &Authority::new("a root").pem()).unwrap();
        let variables = vec![("A".to_owned(), "a/b/c".parse().unwrap())];
        let needs = Needs { broker, variables };
        assert_eq!(*needs.filled(vec![b"x".to_vec()]).unwrap(), [("A".to_owned(), "x".to_owned())]);
        for (bad, words) in [(vec![0xff, 0xfe], "as base64"), (vec![b'a', 0], "as base64"), (vec![b'a'; BYTES + 1], "at most")] {
            let failure = needs.filled(vec![bad]).unwrap_err();
            assert!(failure.kind == FailureKind::Denied && failure.message.contains(words), "{failure}");
        }
    }
}
