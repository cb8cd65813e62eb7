//! Owners: invited, claimed once, known by their key, removed with all that they keep.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teemate_vault::testing::{Effect, Fault, MemoryDisk};
use teemate_vault::{FixedSealing, Key, OwnerError, OwnerLimits, OwnerState, Owners, Vault, VaultError};

const HOUR: Duration = Duration::from_secs(3600);

fn open(disk: &Arc<MemoryDisk>) -> Result<Arc<Vault>, VaultError> {
    Vault::open(disk.clone(), Arc::new(FixedSealing::new([7; 16])))
}

fn owners(disk: &Arc<MemoryDisk>) -> Owners {
    Owners::open(open(disk).unwrap()).unwrap()
}

fn invite(owners: &Owners, name: &str) -> String {
    owners.invite(name, OwnerLimits::default(), HOUR).unwrap()
}

#[test]
fn an_owner_is_known_by_the_key_that_the_claim_gave() {
    let disk = Arc::new(MemoryDisk::new());
    let claimed = {
        let owners = owners(&disk);
        let token = invite(&owners, "ada");
        let claimed = owners.claim(&token).unwrap();
        assert_eq!((claimed.namespace.as_str(), claimed.key.len(), claimed.uuid.len()), ("ada", 64, 36));
        assert!(!format!("{claimed:?}").contains(&claimed.key), "no log has the key");
        claimed
    };
    for _ in 0..2 {
        let owners = owners(&disk);
        let owner = owners.authenticate(&claimed.uuid, &claimed.key).unwrap();
        assert_eq!((owner.namespace.as_str(), &owner.uuid, owner.limits.concurrent), ("ada", &claimed.uuid, 30));
        for (uuid, key) in [
            (claimed.uuid.as_str(), ""),
            (&claimed.uuid, &claimed.key[1..]),
            (&claimed.uuid, &claimed.key.to_lowercase()),
            ("", claimed.key.as_str()),
            ("ada", &claimed.key),
            ("00000000-0000-4000-8000-000000000000", &claimed.key),
        ] {
            assert_eq!(owners.authenticate(uuid, key), None, "{uuid}:{key}");
        }
    }
}

#[test]
fn a_token_makes_one_owner_and_who_comes_second_is_told() {
    let disk = Arc::new(MemoryDisk::new());
    let owners_now = owners(&disk);
    let first = invite(&owners_now, "ada");
    let token = invite(&owners_now, "ada");
    assert_eq!(owners_now.claim(&first), Err(OwnerError::Token), "inviting again makes the first token worthless");
    owners_now.claim(&token).unwrap();
    drop(owners_now);
    let owners = owners(&disk);
    assert_eq!(owners.claim(&token), Err(OwnerError::Used { namespace: "ada".into() }), "also after a restart");
    assert_eq!(owners.claim("tmc_00000000000000000000000000000000"), Err(OwnerError::Token));
    assert_eq!(owners.claim(""), Err(OwnerError::Token));
    let again = owners.invite("ada", OwnerLimits::default(), HOUR);
    assert_eq!(again, Err(OwnerError::Exists { namespace: "ada".into() }));
}

#[test]
fn threads_that_claim_at_once_make_one_owner() {
    let owners = owners(&Arc::new(MemoryDisk::new()));
    let token = invite(&owners, "ada");
    let claims: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| owners.claim(&token))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
    assert!(claims.iter().all(|claim| matches!(claim, Ok(_) | Err(OwnerError::Used { .. }))));
}

#[test]
fn tokens_expire() {
    static NOW: AtomicU64 = AtomicU64::new(1_000_000);
    let vault = open(&Arc::new(MemoryDisk::new())).unwrap();
    let owners = Owners::with_clock(vault, || NOW.load(Ordering::Relaxed)).unwrap();
    let token = owners.invite("ada", OwnerLimits::default(), HOUR).unwrap();
    assert_eq!(owners.get("ada").unwrap().state, OwnerState::Invited { expires: 1_003_600 });
    NOW.store(1_003_601, Ordering::Relaxed);
    assert_eq!(owners.claim(&token), Err(OwnerError::Expired));
    NOW.store(1_003_600, Ordering::Relaxed);
    assert!(owners.claim(&token).is_ok());
    for validity in [Duration::ZERO, Duration::MAX] {
        assert_eq!(owners.invite("eve", OwnerLimits::default(), validity), Err(OwnerError::Validity));
    }
}

#[test]
fn rotation_and_limits() {
    let disk = Arc::new(MemoryDisk::new());
    let (old, new) = {
        let owners = owners(&disk);
        let old = owners.claim(&invite(&owners, "ada")).unwrap();
        let new = owners.rotate("ada").unwrap();
        owners.limit("ada", OwnerLimits { calls_per_minute: 5, ..OwnerLimits::default() }).unwrap();
        (old, new)
    };
    let owners = owners(&disk);
    assert_eq!(old.uuid, new.uuid);
    assert_eq!(owners.authenticate(&old.uuid, &old.key), None);
    assert_eq!(owners.authenticate(&new.uuid, &new.key).unwrap().limits.calls_per_minute, 5);
    assert_eq!(owners.rotate("eve"), Err(OwnerError::None { namespace: "eve".into() }));
    assert_eq!(owners.limit("eve", OwnerLimits::default()), Err(OwnerError::None { namespace: "eve".into() }));
    invite(&owners, "eve");
    assert_eq!(owners.rotate("eve"), Err(OwnerError::None { namespace: "eve".into() }), "an invitation has no key");
}

#[test]
fn who_is_removed_takes_everything_along() {
    let disk = Arc::new(MemoryDisk::new());
    let owners_now = owners(&disk);
    let ada = owners_now.claim(&invite(&owners_now, "ada")).unwrap();
    let eve = owners_now.claim(&invite(&owners_now, "eve")).unwrap();
    drop(owners_now);
    {
        let vault = open(&disk).unwrap();
        for owner in [&ada, &eve] {
            for number in 0..5 {
                vault.put(&Key::new(owner.uuid.as_str(), "code", format!("{number}")), &vec![1; 70_000]).unwrap();
            }
        }
        let owners = Owners::open(vault.clone()).unwrap();
        owners.remove("ada").unwrap();
        assert_eq!(owners.authenticate(&ada.uuid, &ada.key), None);
        assert_eq!(owners.remove("ada"), Err(OwnerError::None { namespace: "ada".into() }));
        assert_eq!((vault.usage(&ada.uuid).records, vault.usage(&eve.uuid).records), (0, 5));
        // A call that ended late writes what nobody will ask for.
        vault.put(&Key::new(ada.uuid.as_str(), "activation", "late"), b"late").unwrap();
    }
    let owners = owners(&disk);
    let new = owners.claim(&invite(&owners, "ada")).unwrap();
    assert_ne!(new.uuid, ada.uuid, "the next owner of the name finds nothing of the last");
    drop(owners);
    let vault = open(&disk).unwrap();
    assert_eq!(vault.usage(&ada.uuid).records, 0, "what came late is gone at the next start");
    assert_eq!(vault.usage(&eve.uuid).records, 5);
    assert_eq!(disk.content().blobs.len(), 5);
}

#[test]
fn names_are_checked() {
    let owners = owners(&Arc::new(MemoryDisk::new()));
    for name in ["", "_", ".owners", "-a", "a b", "a/b", "ä", "a\n", &"a".repeat(65)] {
        let refused = owners.invite(name, OwnerLimits::default(), HOUR);
        assert_eq!(refused, Err(OwnerError::Name { name: name.to_owned() }));
    }
    for name in ["a", "ada@example.org", "team-1_x.y", &"a".repeat(64)] {
        invite(&owners, name);
    }
    let listed: Vec<String> = owners.list().into_iter().map(|info| info.namespace).collect();
    assert_eq!(listed, ["a", &"a".repeat(64), "ada@example.org", "team-1_x.y"]);
    owners.remove("a").unwrap();
    assert_eq!(owners.get("a"), None);
}

#[test]
fn a_failure_at_any_write_leaves_owners_whole() {
    for write in 2..40 {
        for effect in [Effect::Nothing, Effect::Part(100), Effect::Whole] {
            let disk = Arc::new(MemoryDisk::new());
            let script = |owners: &Owners| -> Result<(), OwnerError> {
                let token = owners.invite("ada", OwnerLimits::default(), HOUR)?;
                let ada = owners.claim(&token)?;
                assert!(owners.authenticate(&ada.uuid, &ada.key).is_some());
                let new = owners.rotate("ada")?;
                assert!(owners.authenticate(&new.uuid, &new.key).is_some());
                owners.remove("ada")
            };
            disk.fail([Fault { write, effect, crash: true }]);
            let Ok(vault) = open(&disk) else { continue };
            let _ = Owners::open(vault).and_then(|owners| script(&owners));
            disk.revive();
            let after = owners(&disk);
            // Whatever was cut off, the namespace is free, invited or owned, and what is owned can be removed.
            if after.get("ada").is_some() {
                after.remove("ada").unwrap();
            }
            script(&after).unwrap();
            assert_eq!(after.list(), []);
        }
    }
}

#[test]
fn a_failed_write_changes_nothing_in_memory() {
    let disk = Arc::new(MemoryDisk::new());
    let owners = owners(&disk);
    let ada = owners.claim(&invite(&owners, "ada")).unwrap();
    let from = disk.writes();
    disk.fail([Fault { write: from, effect: Effect::Nothing, crash: false }]);
    assert!(matches!(owners.rotate("ada"), Err(OwnerError::Vault(VaultError::Unknown { .. }))));
    assert!(owners.authenticate(&ada.uuid, &ada.key).is_some());
}
