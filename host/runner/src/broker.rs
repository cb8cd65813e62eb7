//! Connections and data files for containers, which have no network and no directory: a container asks over a socket of its own, the node
//! answers with a descriptor.
//!
//! A question is one packet ([`Question`]). An answer is one packet, an errno (0: none) as four bytes, with the descriptor beside it, if
//! the question is for one.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Longest address.
pub const ADDRESS_MAX: usize = 512;
/// Longest question: two paths, and what is around them.
const QUESTION_MAX: usize = 2 * teemate_abi::ocall::DATA_PATH_MAX + 16;
/// First byte of a question about a data file. No host's name has it.
const FILE: u8 = 0;

/// What a container asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A connection to `host:port`. As bytes: just that, so that a payload which runs without an enclave can ask too.
    Connect(Vec<u8>),
    /// Something of the data directory.
    File(FileQuestion),
}

/// What a container asks of the data directory. Paths are below it, by the payload's word: the node checks them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileQuestion {
    /// A file; the answer has its descriptor. Flags as in `teemate_abi::ocall::OPEN`.
    Open {
        /// Its path.
        path: Vec<u8>,
        /// How.
        flags: u32,
    },
    /// Another path for a file.
    Rename {
        /// The old one.
        from: Vec<u8>,
        /// The new one.
        to: Vec<u8>,
    },
    /// A file goes.
    Remove {
        /// Its path.
        path: Vec<u8>,
    },
}

impl Question {
    /// As one packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Question::Connect(address) => address.clone(),
            Question::File(question) => {
                let mut bytes = vec![FILE];
                // A vector takes any bytes, and the type has no case that postcard refuses: so nothing is lost here.
                bytes.extend(postcard::to_stdvec(question).unwrap_or_default());
                bytes
            }
        }
    }

    /// From one packet; `None` for noise.
    pub fn decode(bytes: &[u8]) -> Option<Question> {
        match bytes.split_first() {
            Some((&FILE, rest)) => postcard::from_bytes(rest).ok().map(Question::File),
            _ => Some(Question::Connect(bytes.to_vec())),
        }
    }
}

/// Container: asks for a descriptor, and waits for it.
pub fn ask(socket: BorrowedFd<'_>, question: &Question) -> Result<OwnedFd, Errno> {
    tell(socket, question)?.ok_or(Errno::CONNRESET)
}

/// Container: asks, and waits for the answer. Several threads of a process may: answers say nothing of the question, so it is one at a time.
pub fn tell(socket: BorrowedFd<'_>, question: &Question) -> Result<Option<OwnedFd>, Errno> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    rustix::io::retry_on_intr(|| send(socket, &question.encode(), SendFlags::NOSIGNAL)).map_err(|_| Errno::CONNRESET)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 4];
    let received =
        rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let descriptor = fds.by_ref().flatten().next();
    match (received.bytes, i32::from_le_bytes(bytes)) {
        (4, 0) => Ok(descriptor),
        (4, number) if number > 0 => Err(Errno::from_raw_os_error(number)),
        _ => Err(Errno::CONNRESET),
    }
}

/// Node: the next question; `None` when the container is gone.
pub fn next(socket: BorrowedFd<'_>) -> Result<Option<Question>, Errno> {
    const { assert!(QUESTION_MAX > ADDRESS_MAX) };
    let mut bytes = [0u8; QUESTION_MAX + 1];
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()))?;
    match bytes.get(..length) {
        None | Some([]) => Ok(None),
        Some(bytes) => Question::decode(bytes).map(Some).ok_or(Errno::INVAL),
    }
}

/// Node: the answer to the last question.
pub fn answer(socket: BorrowedFd<'_>, answer: Result<Option<OwnedFd>, Errno>) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let number = answer.as_ref().map_or_else(|error| error.raw_os_error(), |_| 0).to_le_bytes();
    let fds: Vec<BorrowedFd<'_>> = answer.iter().flatten().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&number)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_question_survives(path in prop::collection::vec(any::<u8>(), 0..255), to in prop::collection::vec(any::<u8>(), 0..255), flags: u32) {
            for question in [
                Question::Connect(b"host:80".to_vec()),
                Question::File(FileQuestion::Open { path: path.clone(), flags }),
                Question::File(FileQuestion::Rename { from: path.clone(), to }),
                Question::File(FileQuestion::Remove { path }),
            ] {
                prop_assert!(question.encode().len() <= QUESTION_MAX);
                prop_assert_eq!(Question::decode(&question.encode()), Some(question));
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _ = Question::decode(&bytes);
        }
    }
}
