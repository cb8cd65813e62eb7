//! The owners of a vault, as the gateway asks for them.

use teemate_vault::owners::{OwnerError, Owners};

use crate::platform::{Accounts, ClaimError, Claimed};
use crate::router::Owner;

impl Accounts for Owners {
    fn authenticate(&self, uuid: &str, key: &str) -> Option<Owner> {
        let owner = Owners::authenticate(self, uuid, key)?;
        Some(Owner { namespace: owner.namespace, uuid: owner.uuid })
    }

    fn claim(&self, token: &str) -> Result<Claimed, ClaimError> {
        match Owners::claim(self, token) {
            Ok(claimed) => Ok(Claimed { namespace: claimed.namespace, uuid: claimed.uuid, key: claimed.key }),
            Err(error @ OwnerError::Vault(_)) => Err(ClaimError::Failed(error.to_string())),
            Err(error) => Err(ClaimError::Refused(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use teemate_vault::testing::MemoryDisk;
    use teemate_vault::{FixedSealing, OwnerLimits, Vault};

    use super::*;

    #[test]
    fn who_claims_an_invitation_is_known_from_then_on() {
        let vault = Vault::open(Arc::new(MemoryDisk::new()), Arc::new(FixedSealing::new([1; 16]))).unwrap();
        let owners = Owners::open(vault).unwrap();
        let token = owners.invite("ada", OwnerLimits::default(), Duration::from_secs(60)).unwrap();
        let accounts: &dyn Accounts = &owners;
        assert!(matches!(accounts.claim("something else"), Err(ClaimError::Refused(_))));
        let claimed = accounts.claim(&token).unwrap();
        let owner = accounts.authenticate(&claimed.uuid, &claimed.key).unwrap();
        assert_eq!((owner.namespace, owner.uuid), (claimed.namespace, claimed.uuid.clone()));
        assert_eq!(accounts.authenticate(&claimed.uuid, "another key"), None);
        // The second claimer learns that there was a first.
        let Err(ClaimError::Refused(why)) = accounts.claim(&token) else { panic!("claimed twice") };
        assert!(why.contains("somebody else"), "{why}");
    }
}
