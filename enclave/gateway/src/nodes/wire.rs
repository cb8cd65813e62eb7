//! What nodes say to each other, below `/teemate/v1/nodes/` of the source.
//!
//! | path | request | answer |
//! |---|---|---|
//! | `POST join` | [`Join`] | [`Joined`] |
//! | `GET manifest?since=DIGEST` | - | [`Manifest`], as soon as it is another one; 304 after a while |
//! | `GET record?owner=&kind=&name=` | - | the record |
//! | `GET receipt?owner=&name=` | - | the receipt of a call of a namespace's, with its quote |
//! | `POST forward` | an owner's request; what it was is in the header [`FORWARD`] | its answer |
//! | `POST claim` | an owner's claim of an invitation | as that of `/teemate/v1/claim` |
//! | `POST keep` | [`Record`]: of a call, its receipt, or the voucher of a key that signs receipts | - |
//!
//! All but `join` with the token in the header [`TOKEN`].

use ring::digest::{SHA384, digest};
use serde::{Deserialize, Serialize};
use teemate_evidence::encoding::{as_base64, hex};

use crate::whisk::store::kind;

/// Header with what [`Joined`] gave.
pub const TOKEN: &str = "x-teemate-node";
/// Header with a [`Forward`], JSON in base64.
pub const FORWARD: &str = "x-teemate-forward";
/// Label of the keying material that binds a connection (RFC 8446, 7.5).
pub const EXPORTER: &[u8] = b"EXPORTER-teemate-node";
/// Kinds of what an owner has deployed. Records of calls are not copied.
pub const KINDS: [&str; 5] = [kind::ACTION, kind::CODE, kind::PACKAGE, kind::TRIGGER, kind::RULE];
/// Under what owners themselves are kept.
pub const OWNERS: (&str, &str) = teemate_vault::owners::SHELF;

/// REPORT_DATA of who joins over a connection with this keying material: SHA-384 of a canonical JSON text, then zeros.
pub fn report_data(channel: &[u8; 32]) -> [u8; 64] {
    let text = format!("{{\"channel\":\"{}\",\"purpose\":\"join\",\"version\":1}}", hex(channel));
    let mut data = [0; 64];
    data[..48].copy_from_slice(digest(&SHA384, text.as_bytes()).as_ref());
    data
}

/// Who wants to follow.
#[derive(Debug, Serialize, Deserialize)]
pub struct Join {
    /// A quote with [`report_data`] of this connection.
    #[serde(with = "as_base64")]
    pub quote: Vec<u8>,
}

/// It may.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// To be shown with each request. Nobody but the enclave that joined knows it.
    pub token: String,
    /// Name of the source's store.
    pub store: String,
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Whose.
    pub owner: String,
    /// Of what kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What the source has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of all entries: another one when anything is another one.
    pub digest: String,
    /// Each record, and its version there.
    pub entries: Vec<(Place, u64)>,
}

/// A request of an owner's, as the follower got it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forward {
    /// Whose it is.
    pub namespace: String,
    /// His number.
    pub uuid: String,
    /// Method.
    pub method: String,
    /// What follows `/api/v1`.
    pub path: String,
    /// Query.
    pub query: Vec<(String, String)>,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// The record of a call, or its receipt.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Where.
    pub at: Place,
    /// What.
    #[serde(with = "as_base64")]
    pub value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_for_joining_is_for_one_connection_alone() {
        let (one, two) = (report_data(&[1; 32]), report_data(&[2; 32]));
        assert_ne!(one, two);
        assert_eq!(one[48..], [0; 16]);
    }
}
