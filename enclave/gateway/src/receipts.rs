//! Receipts of finished activations: signed here, kept on a shelf, given to their owner with the quote that vouches for the key.
//!
//! The key lives as long as this process. A receipt of an earlier life stays checkable, because the voucher of its key (a quote, and what it
//! binds) is kept beside the receipts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use serde::{Deserialize, Serialize};
use teemate_evidence::api::{self, ReceiptBundle};
use teemate_evidence::encoding::{as_base64, unbase64url};
use teemate_evidence::{Binding, Receipt};

use crate::identity::Identity;
use crate::lock;

/// Keeps texts of owners. Calls may block for as long as the store takes; `keep` must not.
pub trait Shelf: Send + Sync + 'static {
    /// Keeps a receipt; durable before long.
    fn keep(&self, owner: &str, activation: &str, receipt: String);

    /// The receipt of an activation.
    fn find(&self, owner: &str, activation: &str) -> Option<String>;

    /// Forgets a receipt.
    fn forget(&self, owner: &str, activation: &str);

    /// Keeps the voucher of a key of this enclave; durable before long.
    fn keep_voucher(&self, key: &str, voucher: Vec<u8>);

    /// The voucher of a key.
    fn voucher(&self, key: &str) -> Option<Vec<u8>>;
}

/// A quote that vouches for a receipt key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The quote.
    #[serde(with = "as_base64")]
    pub quote: Vec<u8>,
    /// What it binds.
    pub binding: Binding,
}

/// Signs receipts and finds them again.
pub struct Receipts {
    identity: Arc<Identity>,
    shelf: Arc<dyn Shelf>,
    voucher: RwLock<Option<Arc<Voucher>>>,
    name: String,
}

impl Receipts {
    /// Signs with the key of `identity`, keeps on `shelf`.
    pub fn new(identity: Arc<Identity>, shelf: Arc<dyn Shelf>) -> Arc<Self> {
        let name = identity.receipt_public().thumbprint();
        Arc::new(Receipts { identity, shelf, voucher: RwLock::new(None), name })
    }

    /// Signs the receipt of a finished activation and keeps it. Returns it as text.
    ///
    /// # Errors
    /// When it says what no receipt can: names too long, numbers beyond 2^53.
    pub fn issue(&self, receipt: &Receipt) -> Result<String, teemate_evidence::Error> {
        let text = receipt.sign(self.identity.receipt())?;
        self.shelf.keep(&receipt.owner, &receipt.activation, text.clone());
        Ok(text)
    }

    /// Forgets the receipt of an activation that is forgotten itself.
    pub fn forget(&self, owner: &str, activation: &str) {
        self.shelf.forget(owner, activation);
    }

    /// The receipt of an activation with all that it takes to check it. May block.
    pub fn bundle(&self, owner: &str, activation: &str) -> Option<ReceiptBundle> {
        let receipt = self.shelf.find(owner, activation)?;
        let voucher = self.voucher_of(&key_name(&receipt)?)?;
        Some(ReceiptBundle {
            version: api::VERSION,
            receipt,
            quote: voucher.quote.clone(),
            binding: voucher.binding.clone(),
            collateral: None,
        })
    }

    /// A fresh quote for this life's key.
    pub fn vouch(&self, quote: Vec<u8>, binding: Binding) {
        let voucher = Voucher { quote, binding };
        if let Ok(text) = serde_json::to_vec(&voucher) {
            self.shelf.keep_voucher(&self.name, text);
        }
        *self.voucher.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::new(voucher));
    }

    fn voucher_of(&self, key: &str) -> Option<Arc<Voucher>> {
        if key == self.name {
            return self.voucher.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        }
        serde_json::from_slice(&self.shelf.voucher(key)?).ok().map(Arc::new)
    }
}

/// Name of the key that signed a receipt of ours.
fn key_name(receipt: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Header {
        kid: String,
    }
    let header = unbase64url(receipt.split('.').next()?)?;
    Some(serde_json::from_slice::<Header>(&header).ok()?.kid)
}

/// A shelf in memory: the newest so many receipts. For native runs and tests.
pub struct MemoryShelf {
    most: usize,
    receipts: Mutex<VecDeque<(String, String, String)>>,
    vouchers: Mutex<VecDeque<(String, Vec<u8>)>>,
}

impl MemoryShelf {
    /// A shelf for so many.
    pub fn new(most: usize) -> Self {
        MemoryShelf { most, receipts: Mutex::default(), vouchers: Mutex::default() }
    }
}

impl Shelf for MemoryShelf {
    fn keep(&self, owner: &str, activation: &str, receipt: String) {
        let mut receipts = lock(&self.receipts);
        if receipts.len() >= self.most {
            receipts.pop_front();
        }
        receipts.push_back((owner.to_owned(), activation.to_owned(), receipt));
    }

    fn find(&self, owner: &str, activation: &str) -> Option<String> {
        lock(&self.receipts).iter().find(|(o, a, _)| o == owner && a == activation).map(|(_, _, receipt)| receipt.clone())
    }

    fn forget(&self, owner: &str, activation: &str) {
        lock(&self.receipts).retain(|(o, a, _)| o != owner || a != activation);
    }

    fn keep_voucher(&self, key: &str, voucher: Vec<u8>) {
        let mut vouchers = lock(&self.vouchers);
        vouchers.retain(|(k, _)| k != key);
        if vouchers.len() >= self.most {
            vouchers.pop_front();
        }
        vouchers.push_back((key.to_owned(), voucher));
    }

    fn voucher(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.vouchers).iter().find(|(k, _)| k == key).map(|(_, voucher)| voucher.clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use teemate_evidence::receipt::{Limits, Reuse, Status, Usage, VERSION};

    use super::*;

    pub(crate) fn receipt(owner: &str, activation: &str) -> Receipt {
        Receipt {
            version: VERSION,
            owner: owner.into(),
            action: "hello".into(),
            action_version: "0.0.1".into(),
            code_sha256: [1; 32],
            limits: Limits { timeout_ms: 60_000, memory: 256 << 20, fuel: None, log: 10 << 20, result: 1 << 20 },
            container: 7,
            activation: activation.into(),
            reuse: Reuse::Fresh,
            status: Status::Success,
            usage: Usage::default(),
            input_sha256: None,
            output_sha256: None,
            untrusted_start_ms: 1,
            untrusted_end_ms: 2,
        }
    }

    fn life(shelf: &Arc<MemoryShelf>) -> (Arc<Identity>, Arc<Receipts>) {
        let identity = Arc::new(Identity::generate().unwrap());
        let receipts = Receipts::new(identity.clone(), shelf.clone());
        receipts.vouch(vec![1, 2, 3], identity.voucher());
        (identity, receipts)
    }

    #[test]
    fn a_receipt_can_be_checked_in_the_next_life_too() {
        let shelf = Arc::new(MemoryShelf::new(10));
        let activation = "0123456789abcdef0123456789abcdef";
        let (old, receipts) = life(&shelf);
        receipts.issue(&receipt("ada", activation)).unwrap();
        let bundle = receipts.bundle("ada", activation).unwrap();
        bundle.check(&old.voucher().report_data()).unwrap();

        let (new, receipts) = life(&shelf);
        let bundle = receipts.bundle("ada", activation).unwrap();
        assert_eq!(bundle.check(&old.voucher().report_data()).unwrap().activation, activation);
        assert!(bundle.check(&new.voucher().report_data()).is_err());
        assert!(receipts.bundle("bob", activation).is_none());
        receipts.forget("ada", activation);
        assert!(receipts.bundle("ada", activation).is_none());
    }

    #[test]
    fn a_shelf_in_memory_keeps_the_newest() {
        let shelf = MemoryShelf::new(2);
        for index in 0..4 {
            shelf.keep("o", &index.to_string(), "r".into());
            shelf.keep_voucher(&index.to_string(), vec![index]);
        }
        assert_eq!((shelf.find("o", "1"), shelf.find("o", "2")), (None, Some("r".into())));
        assert_eq!((shelf.voucher("1"), shelf.voucher("3")), (None, Some(vec![3])));
    }
}
