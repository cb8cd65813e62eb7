//! Namespaces: what each owner has, in memory as in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use teemate_vault::OwnerLimits;
use tokio::sync::OnceCell;

use super::activation::Activation;
use super::entity::{Collection, Entity};
use super::history::{History, Retention};
use super::lock;
use super::rejection::Rejection;
use super::store::{Account, Change, Key, Store, StoreError, kind};
use super::throttle::Throttle;

/// One namespace.
pub struct Space {
    /// Its name.
    pub name: String,
    /// Under what its owner keeps things.
    pub id: String,
    limits: RwLock<OwnerLimits>,
    entities: RwLock<BTreeMap<String, Entity>>,
    /// Held by who changes something: changes of a namespace are made one after the other.
    pub changing: tokio::sync::Mutex<()>,
    /// What was called.
    pub history: History,
    /// How much may be called.
    pub throttle: Throttle,
}

impl Space {
    fn load(store: &dyn Store, name: &str, account: Account, retention: Retention) -> Result<Space, StoreError> {
        let id = &*account.id;
        let mut entities = BTreeMap::new();
        for collection in Collection::ALL {
            for key in store.list(id, collection.kind())? {
                let Some(bytes) = store.get(&Key::new(id, collection.kind(), &*key))? else { continue };
                let entity =
                    Entity::from_bytes(collection, &bytes).map_err(|error| StoreError::new("give an entity as it was kept", error))?;
                entities.insert(key, entity);
            }
        }
        let history = History::default();
        let mut gone = Vec::new();
        for name in store.list(id, kind::ACTIVATION)? {
            let Some(bytes) = store.get(&Key::new(id, kind::ACTIVATION, &*name))? else { continue };
            match serde_json::from_slice::<Activation>(&bytes) {
                // Which of them go is for later: they come in the order of their names.
                Ok(activation) => drop(history.add(&activation, bytes.len(), Retention { count: usize::MAX, bytes: usize::MAX })),
                Err(_) => gone.push(name),
            }
        }
        history.sort();
        gone.extend(history.trim(retention));
        if !gone.is_empty() {
            store.commit(forget(id, gone))?;
        }
        Ok(Space {
            name: name.to_owned(),
            limits: RwLock::new(account.limits),
            id: account.id,
            entities: RwLock::new(entities),
            changing: tokio::sync::Mutex::new(()),
            history,
            throttle: Throttle::default(),
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Entity>> {
        self.entities.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads a name of a collection again, as the store has it now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn renew(&self, store: &dyn Store, collection: Collection, name: &str) -> Result<(), StoreError> {
        let now = store.get(&Key::new(&self.id, collection.kind(), name))?;
        let now = now.map(|bytes| Entity::from_bytes(collection, &bytes)).transpose();
        let now = now.map_err(|error| StoreError::new("give an entity as it was kept", error))?;
        let mut entities = self.entities.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match now {
            Some(entity) => drop(entities.insert(name.to_owned(), entity)),
            // The name may stand for something else by now.
            None if entities.get(name).is_some_and(|entity| entity.collection() == collection) => drop(entities.remove(name)),
            None => {}
        }
        Ok(())
    }

    /// What its owner may use.
    pub fn limits(&self) -> OwnerLimits {
        self.limits.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What a name (`name` or `package/name`) stands for.
    pub fn get(&self, key: &str) -> Option<Entity> {
        self.read().get(key).cloned()
    }

    /// All of a collection, or of a package, the latest first.
    pub fn list(&self, collection: Collection, package: Option<&str>) -> Vec<Entity> {
        let wanted = |it: &&Entity| it.collection() == collection && (package.is_none() || it.head().at.package.as_deref() == package);
        let mut found: Vec<Entity> = self.read().values().filter(wanted).cloned().collect();
        found.sort_by_key(|it| std::cmp::Reverse(it.head().updated));
        found
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Makes changes in the store and then here. `changing` has to be held.
    ///
    /// # Errors
    /// When the store did not make them; then nothing is changed.
    pub async fn change(&self, store: &Arc<dyn Store>, edits: Vec<Edit>, more: Vec<Change>) -> Result<(), Rejection> {
        let mut changes = more;
        for edit in &edits {
            changes.push(match edit {
                Edit::Put(entity) => Change::Put(entity.key(&self.id), entity.to_bytes()),
                Edit::Delete(entity) => Change::Delete(entity.key(&self.id)),
            });
        }
        let store = store.clone();
        blocking(move || store.commit(changes)).await??;
        let mut entities = self.entities.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for edit in edits {
            match edit {
                Edit::Put(entity) => drop(entities.insert(entity.head().at.key(), entity)),
                Edit::Delete(entity) => drop(entities.remove(&entity.head().at.key())),
            }
        }
        Ok(())
    }
}

/// One change of an entity.
pub enum Edit {
    /// It is so from now on.
    Put(Entity),
    /// It is gone.
    Delete(Entity),
}

/// The changes that forget activations and their receipts.
pub fn forget(owner: &str, ids: Vec<String>) -> Vec<Change> {
    let keys = |id: String| [kind::ACTIVATION, kind::RECEIPT].map(|kind| Change::Delete(Key::new(owner, kind, id.clone())));
    ids.into_iter().flat_map(keys).collect()
}

/// Runs something that may block where it holds nobody up.
///
/// # Errors
/// 500 when it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Rejection> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Rejection::internal())
}

/// A namespace that is loaded, or is being loaded.
type Loaded = Arc<OnceCell<Arc<Space>>>;

/// All namespaces that were asked for.
pub struct Spaces {
    store: Arc<dyn Store>,
    retention: Retention,
    /// By namespace and by who owns it: a later owner of the same namespace finds nothing of an earlier one's.
    spaces: Mutex<HashMap<(String, String), Loaded>>,
}

impl Spaces {
    /// None yet.
    pub fn new(store: Arc<dyn Store>, retention: Retention) -> Self {
        Spaces { store, retention, spaces: Mutex::default() }
    }

    /// The namespace of an owner; `None` when there is no such owner. Read from the store at its first use.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Arc<Space>>, Rejection> {
        // Names that nobody owns are not remembered: anybody may ask for any number of them.
        let Some(account) = self.store.account(name) else { return Ok(None) };
        let limits = account.limits.clone();
        let cell = lock(&self.spaces).entry((name.to_owned(), account.id.clone())).or_default().clone();
        let load = || async {
            let (store, name, retention) = (self.store.clone(), name.to_owned(), self.retention);
            let space = blocking(move || Space::load(&*store, &name, account, retention)).await??;
            Ok::<_, Rejection>(Arc::new(space))
        };
        let space = cell.get_or_try_init(load).await?.clone();
        if *space.limits.read().unwrap_or_else(std::sync::PoisonError::into_inner) != limits {
            *space.limits.write().unwrap_or_else(std::sync::PoisonError::into_inner) = limits;
        }
        Ok(Some(space))
    }

    /// A namespace, if it is in memory.
    pub fn loaded(&self, name: &str) -> Option<Arc<Space>> {
        lock(&self.spaces).iter().find(|((namespace, _), _)| namespace == name).and_then(|(_, cell)| cell.get().cloned())
    }

    /// What is in memory of this owner's.
    pub fn of(&self, owner: &str) -> Vec<Arc<Space>> {
        lock(&self.spaces).iter().filter(|((_, id), _)| id == owner).filter_map(|(_, cell)| cell.get().cloned()).collect()
    }

    /// Forgets what is in memory of a namespace whose owner is gone.
    pub fn forget(&self, name: &str) {
        lock(&self.spaces).retain(|(namespace, _), _| namespace != name);
    }
}
