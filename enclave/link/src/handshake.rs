//! From nothing to a session: two X25519 keys, two reports.

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::digest::{Context, SHA256, SHA512};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SystemRandom;

use crate::error::LinkError;
use crate::platform::{Platform, REPORT, REPORTDATA, TARGETINFO, is_for_us, target_of};
use crate::session::{Keys, Session};

/// First byte of each packet.
pub(crate) mod kind {
    pub const OFFER: u8 = 1;
    pub const ANSWER: u8 = 2;
    pub const PROOF: u8 = 3;
    pub const RECORD: u8 = 4;
}

const LABEL: &[u8] = b"teemate link 1";
const KEY: usize = 32;

/// Whether a packet begins a conversation.
pub fn is_offer(packet: &[u8]) -> bool {
    packet.first() == Some(&kind::OFFER)
}

/// This enclave in a conversation that is not agreed on yet.
struct Own {
    secret: EphemeralPrivateKey,
    public: [u8; KEY],
    /// A report of this enclave: what the other's must say, too.
    identity: [u8; REPORT],
}

impl Own {
    fn new(platform: &dyn Platform) -> Result<Own, LinkError> {
        let identity = platform.report(None, &[0; 64])?;
        let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| LinkError::Keys)?;
        let public = secret.compute_public_key().map_err(|_| LinkError::Keys)?;
        let public = public.as_ref().try_into().map_err(|_| LinkError::Keys)?;
        Ok(Own { secret, public, identity })
    }

    fn target(&self) -> [u8; TARGETINFO] {
        target_of(&self.identity)
    }

    /// Whether this is a REPORT for us, of this conversation and role, of an enclave that is what we are.
    fn check(&self, platform: &dyn Platform, report: &[u8; REPORT], data: &[u8; 64]) -> Result<(), LinkError> {
        if !is_for_us(platform, report)? || report[REPORTDATA..REPORTDATA + 64] != data[..] {
            return Err(LinkError::Report);
        }
        // Everything before REPORTDATA: CPUSVN, MISCSELECT, ATTRIBUTES with the debug bit, MRENCLAVE, MRSIGNER, product and versions.
        if report[..REPORTDATA] != self.identity[..REPORTDATA] { Err(LinkError::Stranger) } else { Ok(()) }
    }
}

/// What both ends have said: public keys and targets, the opener's first.
struct Transcript([u8; 2 * (KEY + TARGETINFO)]);

#[derive(Clone, Copy)]
enum Role {
    Opener,
    Answerer,
}

impl Transcript {
    fn new(opener: (&[u8; KEY], &[u8; TARGETINFO]), answerer: (&[u8; KEY], &[u8; TARGETINFO])) -> Transcript {
        let mut all = [0; 2 * (KEY + TARGETINFO)];
        let mut at = 0;
        for part in [&opener.0[..], &opener.1[..], &answerer.0[..], &answerer.1[..]] {
            all[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Transcript(all)
    }

    /// REPORTDATA of who is in this role: SHA-512, all 64 bytes, where other uses of a report leave zeros at the end.
    fn data(&self, role: Role) -> [u8; 64] {
        let mut hash = Context::new(&SHA512);
        hash.update(LABEL);
        hash.update(match role {
            Role::Opener => b"\0opener\0",
            Role::Answerer => b"\0answerer\0",
        });
        hash.update(&self.0);
        let mut data = [0; 64];
        data.copy_from_slice(hash.finish().as_ref());
        data
    }

    fn session(&self, role: Role, secret: EphemeralPrivateKey, other: &[u8; KEY]) -> Result<Session, LinkError> {
        let salt = ring::digest::digest(&SHA256, &self.0);
        // Refuses a key for which the secret would be zero.
        let keys = agree_ephemeral(secret, &UnparsedPublicKey::new(&X25519, other), |secret| {
            let extracted = Salt::new(HKDF_SHA256, salt.as_ref()).extract(secret);
            let expand = |way: &[u8]| {
                let mut key = [0; 32];
                extracted.expand(&[LABEL, way], HKDF_SHA256).and_then(|okm| okm.fill(&mut key)).map(|()| key)
            };
            Ok::<_, ring::error::Unspecified>((expand(b"\0of the opener")?, expand(b"\0of the answerer")?))
        });
        let (opener, answerer) = keys.map_err(|_| LinkError::Keys)?.map_err(|_| LinkError::Keys)?;
        Session::new(match role {
            Role::Opener => Keys { ours: opener, theirs: answerer },
            Role::Answerer => Keys { ours: answerer, theirs: opener },
        })
    }
}

/// The end that begins.
pub struct Opener(Own);

impl Opener {
    /// Begins; gives the packet for the other end.
    ///
    /// # Errors
    /// Outside an enclave.
    pub fn new(platform: &dyn Platform) -> Result<(Opener, Vec<u8>), LinkError> {
        let own = Own::new(platform)?;
        let packet = [&[kind::OFFER][..], &own.public, &own.target()].concat();
        Ok((Opener(own), packet))
    }

    /// The other end's answer is here. Gives the session, and the packet that must go before any record of it.
    ///
    /// # Errors
    /// When the other end is not the same program on this machine, or the answer is not to this offer.
    pub fn answered(self, platform: &dyn Platform, packet: &[u8]) -> Result<(Session, Vec<u8>), LinkError> {
        let (key, rest) = take::<KEY>(body(packet, kind::ANSWER)?)?;
        let (target, rest) = take::<TARGETINFO>(rest)?;
        let (report, rest) = take::<REPORT>(rest)?;
        if !rest.is_empty() {
            return Err(LinkError::Misplaced);
        }
        let transcript = Transcript::new((&self.0.public, &self.0.target()), (key, target));
        self.0.check(platform, report, &transcript.data(Role::Answerer))?;
        let proof = platform.report(Some(target), &transcript.data(Role::Opener))?;
        let session = transcript.session(Role::Opener, self.0.secret, key)?;
        Ok((session, [&[kind::PROOF][..], &proof].concat()))
    }
}

/// The end that was asked.
pub struct Answerer {
    own: Own,
    other: [u8; KEY],
    transcript: Transcript,
}

impl Answerer {
    /// Takes an offer; gives the packet for the other end.
    ///
    /// # Errors
    /// Outside an enclave, or when the packet is no offer.
    pub fn new(platform: &dyn Platform, packet: &[u8]) -> Result<(Answerer, Vec<u8>), LinkError> {
        let (other, rest) = take::<KEY>(body(packet, kind::OFFER)?)?;
        let (target, rest) = take::<TARGETINFO>(rest)?;
        if !rest.is_empty() {
            return Err(LinkError::Misplaced);
        }
        let own = Own::new(platform)?;
        let transcript = Transcript::new((other, target), (&own.public, &own.target()));
        let report = platform.report(Some(target), &transcript.data(Role::Answerer))?;
        let packet = [&[kind::ANSWER][..], &own.public, &own.target(), &report].concat();
        Ok((Answerer { own, other: *other, transcript }, packet))
    }

    /// The other end's proof is here.
    ///
    /// # Errors
    /// When the other end is not the same program on this machine, or the proof is of another conversation.
    pub fn proved(self, platform: &dyn Platform, packet: &[u8]) -> Result<Session, LinkError> {
        let (report, rest) = take::<REPORT>(body(packet, kind::PROOF)?)?;
        if !rest.is_empty() {
            return Err(LinkError::Misplaced);
        }
        self.own.check(platform, report, &self.transcript.data(Role::Opener))?;
        self.transcript.session(Role::Answerer, self.own.secret, &self.other)
    }
}

fn body(packet: &[u8], kind: u8) -> Result<&[u8], LinkError> {
    packet.split_first().filter(|(first, _)| **first == kind).map(|(_, rest)| rest).ok_or(LinkError::Misplaced)
}

fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), LinkError> {
    bytes.split_first_chunk().ok_or(LinkError::Misplaced)
}
