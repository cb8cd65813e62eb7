//! Requests and responses: each a length (4 bytes, little-endian), then that many bytes of postcard.
//!
//! They travel in TLS. The database knows the witness by the certificates that its owner gave; the witness knows the database by a secret
//! that was made in the enclave, and that each request carries. A connection has no state: one that broke is replaced by another.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Backwards, Mark, Remembered};

/// The version that both must speak.
pub const VERSION: u32 = 1;
/// Most bytes of a message.
pub const MAX_MESSAGE: usize = 2 << 10;
/// Most bytes of a sentence in one.
pub const MAX_REASON: usize = 300;

/// What a database says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// Its name: random.
    pub database: [u8; 16],
    /// What it is known by.
    pub secret: Secret,
    /// What it says.
    pub about: About,
}

/// A secret that is not shown by accident.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum About {
    /// It is opened: what was remembered of it? From now on nobody has a say who opened it before.
    Open {
        /// The new epoch is greater than this.
        above: u64,
        /// Whether the witness may see it for the first time. At each later start it may not: a witness that knows nothing has forgotten.
        new: bool,
    },
    /// It has come this far.
    Remember(Mark),
}

/// What the witness says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum Response {
    /// To [`About::Open`]: the epoch has begun.
    Opened(Remembered),
    /// To [`About::Remember`]: it is on the witness's disk.
    Remembered,
    /// To either: no.
    Refused(Refusal),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another version.
    #[error("it speaks version {0} of the protocol: both must be of the same release")]
    Version(u32),
    /// It does not know the database.
    #[error("it does not know this database. If it lost its memory: `teemate witness accept` there takes what is shown next")]
    Unknown,
    /// It knows it by another secret.
    #[error("it knows this database by another secret. If the settings were restored from a backup: `teemate witness accept` there")]
    Key,
    /// The mark does not come after the last one.
    #[error("it remembers more: {0}")]
    Backwards(Backwards),
    /// It has no room for another database.
    #[error("it remembers as many databases as it may")]
    Full,
    /// It could not remember.
    #[error("it could not remember: {0}")]
    Failed(String),
}

/// Writes a message, and lets it go.
///
/// # Errors
/// Those of the stream; and a message beyond [`MAX_MESSAGE`].
pub fn write<T: Serialize>(message: &T, into: &mut impl Write) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if body.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    into.write_all(&bytes)?;
    into.flush()
}

/// Reads a message. `None`: the stream ended before one began.
///
/// # Errors
/// Those of the stream; and what is no such message: nothing that comes after it can be read.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(wrong("what came is no message of a witness: it is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(wrong("what came is no message of a witness")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mark::tests::any_mark;

    fn any_request() -> impl Strategy<Value = Request> {
        let open = any::<(u64, bool)>().prop_map(|(above, new)| About::Open { above, new });
        let about = prop_oneof![open, any_mark().prop_map(About::Remember)];
        (any::<(u32, [u8; 16], [u8; 32])>(), about).prop_map(|((version, database, secret), about)| Request {
            version,
            database,
            secret: Secret(secret),
            about,
        })
    }

    fn any_response() -> impl Strategy<Value = Response> {
        let opened =
            (any::<u64>(), proptest::option::of(any_mark())).prop_map(|(epoch, last)| Response::Opened(Remembered { epoch, last }));
        let refusal = prop_oneof![
            any::<u32>().prop_map(Refusal::Version),
            Just(Refusal::Unknown),
            Just(Refusal::Backwards(Backwards::Line)),
            ".{0,70}".prop_map(Refusal::Failed),
        ];
        prop_oneof![opened, Just(Response::Remembered), refusal.prop_map(Response::Refused)]
    }

    proptest! {
        #[test]
        fn messages_come_through_in_order(requests in proptest::collection::vec(any_request(), 0..5), response in any_response()) {
            let mut bytes = Vec::new();
            requests.iter().for_each(|request| write(request, &mut bytes).unwrap());
            write(&response, &mut bytes).unwrap();
            let from = &mut &bytes[..];
            for request in &requests {
                prop_assert_eq!(&read::<Request>(from).unwrap().unwrap(), request);
            }
            prop_assert_eq!(read::<Response>(from).unwrap(), Some(response));
            prop_assert_eq!(read::<Response>(from).unwrap(), None);
        }

        #[test]
        fn what_is_cut_is_no_message(request in any_request()) {
            let mut bytes = Vec::new();
            write(&request, &mut bytes).unwrap();
            for length in 1..bytes.len() {
                prop_assert!(read::<Request>(&mut &bytes[..length]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Request>(&mut &bytes[..]);
            let _ = read::<Response>(&mut &bytes[..]);
        }
    }

    #[test]
    fn lengths_are_bounded_and_secrets_are_not_shown() {
        assert!(read::<Request>(&mut &[0xff; 8][..]).is_err());
        let mut longer = Vec::new();
        write(&Response::Remembered, &mut longer).unwrap();
        longer[0] += 1;
        longer.push(0);
        assert!(read::<Response>(&mut &longer[..]).is_err(), "something follows in the message");
        let too_long = Response::Refused(Refusal::Failed("x".repeat(MAX_MESSAGE)));
        assert!(write(&too_long, &mut Vec::new()).is_err());
        assert!(!format!("{:?}", Secret([77; 32])).contains("77"));
    }
}
