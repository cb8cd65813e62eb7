//! The store of this API in a vault.

use std::sync::Arc;

use teemate_vault::{OwnerState, Owners, Vault};

use super::store::{Account, Change, Key, Store, StoreError, kind};
use crate::receipts::Shelf;

/// Where the vouchers of receipt keys are, in the vault: they are the enclave's own. No owner's uuid is like that.
pub const VOUCHERS: (&str, &str) = ("teemate", "voucher");

/// A vault and the owners in it.
pub struct VaultStore {
    vault: Arc<Vault>,
    owners: Arc<Owners>,
}

impl VaultStore {
    /// Over this vault and its owners.
    pub fn new(vault: Arc<Vault>, owners: Arc<Owners>) -> Self {
        VaultStore { vault, owners }
    }

    fn shelf(&self, namespace: &str, activation: &str) -> Option<teemate_vault::Key> {
        Some(teemate_vault::Key::new(self.account(namespace)?.id, kind::RECEIPT, activation))
    }
}

fn key(key: Key) -> teemate_vault::Key {
    teemate_vault::Key::new(key.owner, key.kind, key.name)
}

impl Store for VaultStore {
    fn get(&self, at: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.vault.get(&key(at.clone())).map_err(|error| StoreError::new("give what it keeps", error))
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let changes = changes.into_iter().map(|change| match change {
            Change::Put(at, value) => teemate_vault::Change::Put(key(at), value),
            Change::Delete(at) => teemate_vault::Change::Delete(key(at)),
        });
        self.vault.commit(changes.collect()).map_err(|error| StoreError::new("make these changes", error))
    }

    fn put_soon(&self, at: Key, value: Vec<u8>) -> Result<(), StoreError> {
        self.vault.put_soon(&key(at), value).map_err(|error| StoreError::new("keep this", error))
    }

    fn list(&self, owner: &str, kind: &'static str) -> Result<Vec<String>, StoreError> {
        Ok(self.vault.list(owner, kind).into_iter().map(|(name, _)| name).collect())
    }

    fn account(&self, namespace: &str) -> Option<Account> {
        let info = self.owners.get(namespace)?;
        // Whoever is leaving, or was only invited, has nothing here.
        let OwnerState::Active { .. } = info.state else { return None };
        Some(Account { id: info.uuid?, limits: info.limits })
    }
}

impl Shelf for VaultStore {
    fn keep(&self, owner: &str, activation: &str, receipt: String) {
        let Some(at) = self.shelf(owner, activation) else { return };
        if let Err(error) = self.vault.put_soon(&at, receipt.into_bytes()) {
            eprintln!("teemate-gateway: a receipt is not kept: {error}");
        }
    }

    fn find(&self, owner: &str, activation: &str) -> Option<String> {
        String::from_utf8(self.vault.get(&self.shelf(owner, activation)?).ok()??).ok()
    }

    fn forget(&self, owner: &str, activation: &str) {
        if let Some(at) = self.shelf(owner, activation)
            && let Err(error) = self.vault.delete(&at)
        {
            eprintln!("teemate-gateway: a receipt stays for now: {error}");
        }
    }

    fn keep_voucher(&self, name: &str, voucher: Vec<u8>) {
        if let Err(error) = self.vault.put_soon(&teemate_vault::Key::new(VOUCHERS.0, VOUCHERS.1, name), voucher) {
            eprintln!("teemate-gateway: the voucher of the receipt key is not kept: {error}");
        }
    }

    fn voucher(&self, name: &str) -> Option<Vec<u8>> {
        self.vault.get(&teemate_vault::Key::new(VOUCHERS.0, VOUCHERS.1, name)).ok()?
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use teemate_vault::testing::MemoryDisk;
    use teemate_vault::{FixedSealing, OwnerLimits};

    use super::*;

    fn open(disk: &Arc<MemoryDisk>) -> (VaultStore, Arc<Owners>) {
        let vault = Vault::open(disk.clone(), Arc::new(FixedSealing::new([9; 16]))).unwrap();
        let owners = Arc::new(Owners::open(vault.clone()).unwrap());
        (VaultStore::new(vault, owners.clone()), owners)
    }

    fn invite(owners: &Owners) -> String {
        owners.claim(&owners.invite("ada", OwnerLimits::default(), Duration::from_secs(60)).unwrap()).unwrap().uuid
    }

    #[test]
    fn what_is_kept_outlives_the_vault() {
        let disk = Arc::new(MemoryDisk::new());
        let (store, owners) = open(&disk);
        assert_eq!(store.account("ada"), None);
        let id = invite(&owners);
        assert_eq!(store.account("ada").map(|account| account.id), Some(id.clone()));
        let key = |name: &str| Key::new(&id, kind::ACTION, name);
        store.commit(vec![Change::Put(key("p/a"), b"1".to_vec()), Change::Put(key("b"), b"2".to_vec())]).unwrap();
        store.commit(vec![Change::Delete(key("b")), Change::Put(key("c"), vec![7; 100_000])]).unwrap();
        store.put_soon(Key::new(&id, kind::ACTIVATION, "x"), b"3".to_vec()).unwrap();
        assert_eq!(store.get(&Key::new(&id, kind::ACTIVATION, "x")).unwrap().unwrap(), b"3");
        store.keep("ada", "x", "a receipt".into());
        store.keep_voucher("k", b"a voucher".to_vec());
        store.vault.flush().unwrap();
        drop((store, owners));
        let (store, owners) = open(&disk);
        assert_eq!(store.list(&id, kind::ACTION).unwrap(), ["c", "p/a"]);
        assert_eq!(store.get(&key("c")).unwrap().unwrap(), vec![7; 100_000]);
        assert_eq!((store.find("ada", "x").as_deref(), store.find("bob", "x"), store.find("ada", "y")), (Some("a receipt"), None, None));
        assert_eq!(store.voucher("k").as_deref(), Some(&b"a voucher"[..]));
        Shelf::forget(&store, "ada", "x");
        assert_eq!(store.find("ada", "x"), None);
        // A later owner of the same namespace finds nothing.
        owners.remove("ada").unwrap();
        assert_eq!(store.account("ada"), None);
        let later = invite(&owners);
        assert_ne!(later, id);
        assert!(store.list(&later, kind::ACTION).unwrap().is_empty() && store.list(&id, kind::ACTION).unwrap().is_empty());
    }

    #[test]
    fn a_host_that_changes_what_is_kept_is_found_out() {
        let disk = Arc::new(MemoryDisk::new());
        let (store, owners) = open(&disk);
        let id = invite(&owners);
        let key = Key::new(&id, kind::CODE, "a@1");
        store.commit(vec![Change::Put(key.clone(), vec![b'x'; 200_000])]).unwrap();
        drop((store, owners));
        disk.tamper(|content| content.blobs.values_mut().for_each(|blob| blob[1000] ^= 1));
        let (store, _) = open(&disk);
        assert!(store.get(&key).is_err());
    }
}
