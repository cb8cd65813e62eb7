//! The store of this API in a vault.

use std::sync::Arc;

use teemate_vault::{OwnerState, Owners, Vault};

use super::store::{Account, Change, Key, Store, StoreError, kind};
use crate::receipts::Shelf;

/// Owner, in the vault, of what is the enclave's own. No owner's uuid is like it.
const OWN: &str = "teemate";
/// Kind of the vouchers of receipt keys.
const VOUCHER: &str = "voucher";

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
        if let Err(error) = self.vault.put_soon(&teemate_vault::Key::new(OWN, VOUCHER, name), voucher) {
            eprintln!("teemate-gateway: the voucher of the receipt key is not kept: {error}");
        }
    }

    fn voucher(&self, name: &str) -> Option<Vec<u8>> {
        self.vault.get(&teemate_vault::Key::new(OWN, VOUCHER, name)).ok()?
    }
}
